"""Options of every command that reads text, and their application to a source."""

import json
from typing import Annotated

import typer

from fabella.config.data import FilesSource, HubSource, Source
from fabella.errors import UsageError
from fabella.text.decode_policy import DecodeErrors
from fabella.text.source import describe, parse_source

SOURCE_HELP = "File, directory or glob; storybook[:N]; hub:OWNER/NAME[:SPLIT]."

SourceArgument = Annotated[str, typer.Argument(help=SOURCE_HELP)]
Separator = Annotated[
    str,
    typer.Option(
        "--separator", help="Document separator of .txt: auto, file, blank-lines, lines, or the separator itself."
    ),
]
Column = Annotated[str, typer.Option("--column", help="Text column of .jsonl, .csv, .parquet and hub datasets.")]
DecodeErrorsOption = Annotated[
    str,
    typer.Option(
        "--decode-errors",
        help="Invalid UTF-8, NUL and lone surrogates: strict fails, replace inserts U+FFFD, skip drops the document.",
    ),
]
MaxBadLines = Annotated[
    int, typer.Option("--max-bad-lines", min=0, help="Broken .jsonl or .csv lines to skip before failing.")
]
HoldoutFraction = Annotated[
    float, typer.Option("--held-out", help="Share of documents held out for validation, between 0 and 1.")
]


def read_source(text: str, separator: str, column: str) -> Source:
    """Parse a source with its separator and column. Raises UsageError for an option that the source does not have."""
    source = parse_source(text)
    if separator != "auto" and not isinstance(source, FilesSource):
        raise UsageError(f"--separator is only for text files, not for {describe(source)}.", hint="Leave it out.")
    if column != "auto" and not isinstance(source, FilesSource | HubSource):
        raise UsageError(
            f"--column is only for files and hub datasets, not for {describe(source)}.", hint="Leave it out."
        )
    options = {"separator": separator, "column": column}
    return source.model_copy(update={key: value for key, value in options.items() if value != "auto"})


def text_overrides(separator: str, column: str, decode_errors: str, *, validation: bool) -> tuple[str, ...]:
    """Return the options as ``section.key=value`` settings, for the validation source, too, if there is one."""
    sources = ["data.source", *(["data.validation.source"] if validation else [])]
    options = {"separator": separator, "column": column}
    # JSON quotes values that YAML would read as a comment or a number.
    changes = [
        f"{source}.{key}={json.dumps(value)}" for source in sources for key, value in options.items() if value != "auto"
    ]
    return (*changes, *([f"data.decode_errors={decode_errors_of(decode_errors)}"] if decode_errors else []))


def decode_errors_of(text: str) -> DecodeErrors:
    """Return the policy of ``--decode-errors``. Raises UsageError for an unknown one."""
    match text:
        case "strict" | "replace" | "skip":
            return text
        case _:
            raise UsageError(f"Unknown --decode-errors {text!r}.", hint="Use strict, replace or skip.")


def require_fraction(held_out: float) -> float:
    """Return ``held_out`` if it is between 0 and 1. Raises UsageError otherwise."""
    if not 0 < held_out < 1:
        raise UsageError(f"--held-out must be between 0 and 1, not {held_out:g}.", hint="For example --held-out 0.01.")
    return held_out
