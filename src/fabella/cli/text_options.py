"""Options of every command that reads text, and their application to a source."""

import json
from typing import Annotated, Any

import typer

from fabella.config.data import Pretrained, Source, TokenizerConfig
from fabella.errors import UsageError
from fabella.text.decode_policy import DecodeErrors
from fabella.text.source import describe, parse_source
from fabella.tokenizers import loading

SOURCE_HELP = "File, directory or glob; storybook[:N]; hub:OWNER/NAME[:SPLIT]."

SourceArgument = Annotated[str, typer.Argument(help=SOURCE_HELP)]
Separator = Annotated[
    str,
    typer.Option(
        "--separator", help="Document separator of .txt: auto, file, blank-lines, lines, or the separator itself."
    ),
]
Column = Annotated[
    str,
    typer.Option(
        "--column", help="Text column of a table: a name, a path (doc.text), or a template ('{title} {text}')."
    ),
]
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
Boilerplate = Annotated[
    str,
    typer.Option("--boilerplate", help="Header and licence of Project Gutenberg, and front matter: remove or keep."),
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Documents to read at most; 0 reads all.")]
EndToken = Annotated[
    str, typer.Option("--end-token", help="Token of --tokenizer that ends a document; by default that of its files.")
]
MaxLostCharacters = Annotated[
    float,
    typer.Option("--max-lost-characters", min=0.0, max=1.0, help="Share of characters that --tokenizer may lose."),
]
HoldoutFraction = Annotated[
    float,
    typer.Option("--held-out", help="Share of documents held out, between 0 and 1; default: 0.01."),
]


def read_source(
    text: str, separator: str = "auto", column: str = "auto", boilerplate: str = "remove", limit: int = 0
) -> Source:
    """Parse a source with its options. Raises UsageError for an option that the source does not have."""
    source = parse_source(text)
    if boilerplate not in ("remove", "keep"):
        raise UsageError(f"Unknown --boilerplate {boilerplate!r}.", hint="Use remove or keep.")
    changes = _changed(separator, column, boilerplate, limit)
    for name in changes.keys() - type(source).model_fields.keys():
        kinds = "files and hub datasets" if name == "column" else "text files" if name == "separator" else "files"
        raise UsageError(f"--{name} is only for {kinds}, not for {describe(source)}.", hint="Leave it out.")
    return source.model_copy(update=changes)


def _changed(separator: str, column: str, boilerplate: str, limit: int) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    given = {"separator": separator, "column": column, "boilerplate": boilerplate, "limit": limit}
    return {key: value for key, value in given.items() if value not in ("auto", "remove", 0)}


def text_overrides(
    separator: str, column: str, decode_errors: str, boilerplate: str = "remove", limit: int = 0, *, validation: bool
) -> tuple[str, ...]:
    """Return the options as ``section.key=value`` settings, for the validation source, too, if there is one."""
    sources = ["data.source", *(["data.validation.source"] if validation else [])]
    options = _changed(separator, column, boilerplate, limit)
    # JSON quotes values that YAML would read as a comment or a number.
    changes = [f"{source}.{key}={json.dumps(value)}" for source in sources for key, value in options.items()]
    return (*changes, *([f"data.decode_errors={decode_errors_of(decode_errors)}"] if decode_errors else []))


def tokenizer_of(text: str, end_token: str = "", max_lost_characters: float = 0.0001) -> TokenizerConfig:
    """Parse ``--tokenizer`` with its options. Raises UsageError for options that only imported tokenizers have."""
    config = loading.parse(text)
    if isinstance(config, Pretrained):
        return config.model_copy(update={"eos_token": end_token, "max_lost_characters": max_lost_characters})
    if end_token:
        raise UsageError(f"--end-token is only for an existing tokenizer, not for {text}.", hint="Leave it out.")
    return config


def tokenizer_settings(text: str, end_token: str) -> tuple[str, ...]:
    """Return ``--tokenizer`` as settings of a run, with the size of the model's vocabulary. Raises TokenizerError."""
    if not text:
        if end_token:
            raise UsageError("--end-token is only for --tokenizer.", hint="Or set tokenizer.eos_token=TOKEN.")
        return ()
    config = tokenizer_of(text, end_token)
    size = getattr(config, "vocab_size", 0) or loading.train(config, ()).vocab_size
    return f"tokenizer={json.dumps(config.model_dump(mode='json'))}", f"model.vocab_size={size}"


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
