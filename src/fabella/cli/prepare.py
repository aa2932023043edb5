"""Tokenize a text to a dataset on disk, checked and ready for training.

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

from fabella.cli.output import print_json, print_result
from fabella.cli.run_options import AsJson, writable
from fabella.cli.text_options import (
    ChatOptions,
    DuplicatesOption,
    EndToken,
    HoldoutFraction,
    MaxLostCharacters,
    OverlapOption,
    ReadingOptions,
    SourceArguments,
    ValidationOption,
    expand_options,
    parse_duplicates,
    tokenizer_of,
    validation_section,
)
from fabella.config.data import DataConfig, Packed
from fabella.data.dataset import Split, TokenizedDataset
from fabella.data.prepare.corpus import Corpus, measure_overlap
from fabella.data.prepare.pipeline import prepare
from fabella.text.similarity.evaluation_sets import evaluation_source
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes


@expand_options
def command(
    reading: ReadingOptions,
    chat: ChatOptions,
    source: SourceArguments,
    out: Annotated[
        Path,
        typer.Option(help="Directory to write; opened if it was prepared from the same inputs.", callback=writable),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(help="Tokenizer: bytes, bpe[:SIZE], sentencepiece[:SIZE], the path of one, or a hub name."),
    ] = "bpe:4096",
    validation: ValidationOption = "",
    held_out: HoldoutFraction = 0.0,
    context_length: Annotated[
        int, typer.Option(min=1, help="Context length of the model in tokens, for the data quality report.")
    ] = 256,
    end_token: EndToken = "",
    max_lost_characters: MaxLostCharacters = 0.0001,
    duplicates: DuplicatesOption = "keep",
    overlap: OverlapOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0 means one per core.")] = 0,
    as_json: AsJson = False,
) -> None:
    text = reading.source(*source)
    data = DataConfig(
        source=text,
        validation=validation_section(text, reading, validation, held_out),
        sequences=Packed(length=context_length, stride=context_length),
        duplicates=parse_duplicates(duplicates),
        decode_errors=reading.policy(),
        max_bad_lines=reading.max_bad_lines,
        chat_template=chat.chat_template,
        special_tokens_in_text=chat.special_tokens_in_text,
        loss_on=chat.chosen_loss(),
    )
    start = time.monotonic()
    with PrepareProgressLine() as line:
        config = tokenizer_of(tokenizer, end_token, max_lost_characters)
        dataset = prepare(data, config, out, workers=workers, progress=line)
        others = [evaluation_source(other) for other in overlap or ()]
        overlaps = measure_overlap(Corpus(data, line), others) if others else []
    if as_json:
        print_json({**_to_json(dataset, time.monotonic() - start), "overlap": [one.as_json() for one in overlaps]})
        return
    _print_table(dataset)
    for found in overlaps:
        print_result(str(found))


def _to_json(dataset: TokenizedDataset, seconds: float) -> dict[str, Any]:
    return {
        "path": str(dataset.path),
        "tokenizer": {"kind": dataset.tokenizer.kind, "vocab_size": dataset.tokenizer.vocab_size},
        "train": _counts(dataset.train),
        "validation": _counts(dataset.validation),
        "parts": [part.model_dump() for part in dataset.parts],
        "fingerprint": dataset.fingerprint,
        "notes": dataset.manifest["notes"],
        "data_quality": dataset.manifest["data_quality"],
        "seconds": seconds,
    }


def _counts(split: Split) -> dict[str, int | float]:
    return {
        "documents": split.documents,
        "tokens": split.tokens,
        "bytes": split.bytes,
        "bytes_per_token": split.bytes / split.tokens,
    }


def _print_table(dataset: TokenizedDataset) -> None:
    print_notes(dataset.manifest)
    print_result(f"{'':<12}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for split in (dataset.train, dataset.validation):
        print_result(
            f"{split.name:<12}{split.documents:>12,}{split.tokens:>16,}{split.bytes:>16,}"
            f"{split.bytes / split.tokens:>13.2f}"
        )
    tokenizer = dataset.tokenizer
    print_result(f"Prepared {dataset.path} with a {tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} ids.")
    print_result(f"Train on it:  fabella train PRESET --data {quote(str(dataset.path))}")
