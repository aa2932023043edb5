"""Train, look at and compare tokenizers.

Examples:
  fabella tokenizer train my-stories.txt --tokenizer bpe:4096 --out tokenizers/mine
  fabella tokenizer show tokenizers/mine --text "Once upon a time"
  fabella tokenizer compare tokenizers/mine bytes --text my-stories.txt
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.text_options import (
    Column,
    DecodeErrorsOption,
    Separator,
    SourceArgument,
    decode_errors_of,
    read_source,
)
from fabella.data.prepare import tokenizer_sample
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.splitting import SplitDocument
from fabella.errors import UsageError
from fabella.storage import atomic_dir, escaped
from fabella.text.source import documents
from fabella.tokenizers import loading
from fabella.tokenizers.stats import TokenizerStats, measure_tokenizer
from fabella.tokenizers.tokenizer import Tokenizer

HELP = (__doc__ or "").replace("\n\n", "\n\n\b\n")
JSON = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]
# Enough for figures of three digits, read in a moment.
MEASURED_BYTES = 2_000_000

app = typer.Typer(
    help=HELP,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def train(
    source: SourceArgument,
    out: Annotated[Path, typer.Option(help="Directory to write the tokenizer to.")],
    tokenizer: Annotated[str, typer.Option(help="bpe[:SIZE] or sentencepiece[:SIZE].")] = "bpe:4096",
    separator: Separator = "auto",
    column: Column = "auto",
    decode_errors: DecodeErrorsOption = "strict",
    as_json: JSON = False,
) -> None:
    """Learn a tokenizer from text; of more than 100 MB an even sample is taken."""
    section = loading.parse(tokenizer)
    if not loading.needs_text(section):
        raise UsageError(f"{tokenizer} is not trained.", hint="Choose bpe:4096 or sentencepiece:4096.")
    with atomic_dir(out) as aside:
        taken = tokenizer_sample.sample_bytes(
            SplitDocument(text, document_hash(text), held_out=False)
            for text in documents(read_source(source, separator, column), decode_errors=decode_errors_of(decode_errors))
        )
        made = loading.train(section, taken.texts())
        made.save(aside)
    print_status(taken.message())
    measured = measure_tokenizer(made, _first(taken.texts()))
    if as_json:
        print_json({"folder": str(out), **_facts(made), **_figures(measured)})
    else:
        _tell_all([(str(out), measured)])


@app.command("show")
def show_one(
    tokenizer: Annotated[str, typer.Argument(help="A tokenizer's folder or file, a prepared folder, or a hub name.")],
    text: Annotated[str, typer.Option(help="A text to encode.")] = "",
    as_json: JSON = False,
) -> None:
    """Show what a tokenizer is, and what it makes of a text."""
    opened = loading.open_any(tokenizer)
    ids: list[int] = opened.encode(text).tolist()
    if as_json:
        pieces = [opened.token_bytes(number).decode(errors="backslashreplace") for number in ids]
        print_json({**_facts(opened), "ids": ids, "pieces": pieces, "text": opened.decode(ids)})
        return
    for name, value in _facts(opened).items():
        print_result(f"{name:<12} {value}")
    for number in ids:
        print_result(f"{number:>8}  {_piece(opened, number)}")


@app.command()
def compare(
    tokenizers: Annotated[list[str], typer.Argument(help="Folders, files, 'bytes', or hub names.")],
    text: Annotated[str, typer.Option(help="The source of text to measure on; its first 2 MB are read.")],
    separator: Separator = "auto",
    column: Column = "auto",
    decode_errors: DecodeErrorsOption = "strict",
    as_json: JSON = False,
) -> None:
    """Compare tokenizers on a text: bytes per token, tokens per word, coverage, and whether the text comes back."""
    source = read_source(text, separator, column)
    read = list(_first(documents(source, decode_errors=decode_errors_of(decode_errors))))
    measured = [(name, measure_tokenizer(loading.open_any(name), read)) for name in tokenizers]
    if as_json:
        print_json({"tokenizers": [{"name": name, **_figures(figures)} for name, figures in measured]})
    else:
        _tell_all(measured)


def _first(texts: Iterable[str]) -> Iterator[str]:
    read = 0
    for text in texts:
        yield text
        read += len(text.encode())
        if read >= MEASURED_BYTES:
            return


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "end": tokenizer.eos_id,
        "fingerprint": tokenizer.fingerprint,
    }


def _figures(measured: TokenizerStats) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in TokenizerStats.__dataclass_fields__}


def _piece(tokenizer: Tokenizer, number: int) -> str:
    return f"'{escaped(tokenizer.token_bytes(number).decode(errors='backslashreplace'))}'"


def _tell_all(measured: list[tuple[str, TokenizerStats]]) -> None:
    width = max(9, *(len(name) for name, _ in measured))
    print_result(f"{'tokenizer':<{width}}  vocabulary  bytes/token  tokens/word  coverage   used  round trip")
    for name, figures in measured:
        print_result(
            f"{name:<{width}}  {figures.vocab_size:>10,}  {figures.bytes_per_token:>11.2f}  {figures.fertility:>11.2f}"
            f"  {100 * figures.coverage:>6.1f} %  {100 * figures.used:>3.0f} %  "
            f"{'yes' if figures.round_trip else 'no':>10}"
        )
