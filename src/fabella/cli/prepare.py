"""Turn text into a folder of token ids, checked and ready to train on.

Examples:
  fabella prepare my-stories.txt --tokenizer bpe:4096 --out prepared/mine
  fabella prepare stories/ --tokenizer bytes --out prepared/bytes --held-out 0.05
  fabella prepare storybook:50000 --tokenizer sentencepiece:8000 --out prepared/book
  fabella prepare train.jsonl --column story --validation valid.jsonl --out prepared/pair
  fabella prepare hub:roneneldan/TinyStories --tokenizer gpt2 --out prepared/tiny --json
"""

import time
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from fabella.cli.output import print_json, print_result
from fabella.config.data import DataConfig, FilesSource, Holdout, HubSource, Packed, Source, ValidationSource
from fabella.data.dataset import Split, TokenizedDataset
from fabella.data.prepare.pipeline import prepare
from fabella.errors import UsageError
from fabella.text.source import parse_source
from fabella.tokenizers import loading
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes


def command(
    source: Annotated[str, typer.Argument(help="A file, folder or glob, storybook[:N], or hub:OWNER/NAME[:SPLIT].")],
    out: Annotated[Path, typer.Option(help="The folder to make; taken as it is if it was made from the same.")],
    tokenizer: Annotated[
        str, typer.Option(help="bytes, bpe[:SIZE], sentencepiece[:SIZE], a tokenizer's file or folder, or a hub name.")
    ] = "bpe:4096",
    validation: Annotated[str, typer.Option(help="A source of text to validate on.")] = "",
    held_out: Annotated[float, typer.Option(help="Share of documents to validate on, without --validation.")] = 0.01,
    context: Annotated[int, typer.Option(min=1, help="Tokens the model will read at once; for the checks.")] = 256,
    separator: Annotated[
        str, typer.Option(help="Between documents of .txt: auto, file, blank-lines, lines, or the separator itself.")
    ] = "auto",
    column: Annotated[str, typer.Option(help="The text column of .jsonl, .csv and .parquet.")] = "auto",
    invalid: Annotated[str, typer.Option(help="What to do with broken text: strict, replace, skip.")] = "strict",
    max_bad_lines: Annotated[int, typer.Option(min=0, help="Broken .jsonl or .csv lines to leave out.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that encode; 0: one a core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    data = _data(
        source=_source(source, separator, column),
        validation=ValidationSource(source=_source(validation, separator, column)) if validation else _held(held_out),
        sequences=Packed(length=context, stride=context),
        decode_errors=invalid,
        max_bad_lines=max_bad_lines,
    )
    begun = time.monotonic()
    with PrepareProgressLine() as line:
        prepared = prepare(data, loading.parse(tokenizer), out, workers=workers, progress=line)
    if as_json:
        print_json(_facts(prepared, time.monotonic() - begun))
    else:
        _tell(prepared)


def _source(words: str, separator: str, column: str) -> Source:
    found = parse_source(words)
    given = {"separator": separator, "column": column}
    changes = {key: value for key, value in given.items() if value != "auto"}
    if separator != "auto" and not isinstance(found, FilesSource):
        raise UsageError(f"--separator is for files of text; {words} is none.", hint="Leave it out.")
    if column != "auto" and not isinstance(found, FilesSource | HubSource):
        raise UsageError(f"--column is for files and data sets; {words} is neither.", hint="Leave it out.")
    return found.model_copy(update=changes)


def _held(fraction: float) -> Holdout:
    if not 0 < fraction < 1:
        raise UsageError(f"--held-out {fraction} is no share between 0 and 1.", hint="For example --held-out 0.01.")
    return Holdout(fraction=fraction)


def _data(**values: Any) -> DataConfig:
    try:
        return DataConfig(**values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "--" + str(wrong["loc"][0]).replace("decode_errors", "invalid").replace("_", "-")
        raise UsageError(f"{name} {wrong['input']!r} cannot be taken: {wrong['msg']}.", hint="") from error


def _facts(prepared: TokenizedDataset, seconds: float) -> dict[str, Any]:
    return {
        "folder": str(prepared.folder),
        "tokenizer": {"kind": prepared.tokenizer.kind, "vocab_size": prepared.tokenizer.vocab_size},
        "train": _counts(prepared.train),
        "validation": _counts(prepared.validation),
        "fingerprint": prepared.fingerprint,
        "notes": prepared.manifest["notes"],
        "data_quality": prepared.manifest["data_quality"],
        "seconds": seconds,
    }


def _counts(split: Split) -> dict[str, int | float]:
    return {
        "documents": split.documents,
        "tokens": split.tokens,
        "bytes": split.bytes,
        "bytes_per_token": split.bytes / split.tokens,
    }


def _tell(prepared: TokenizedDataset) -> None:
    print_notes(prepared.manifest)
    print_result(f"{'':<12}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for split in (prepared.train, prepared.validation):
        print_result(
            f"{split.name:<12}{split.documents:>12,}{split.tokens:>16,}{split.bytes:>16,}"
            f"{split.bytes / split.tokens:>13.2f}"
        )
    print_result(
        f"{prepared.folder}: ready, {prepared.tokenizer.kind} tokenizer of {prepared.tokenizer.vocab_size:,} ids"
    )
    print_result(f"Train on it:  fabella train PRESET --data {quote(str(prepared.folder))}")
