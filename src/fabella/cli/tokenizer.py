"""Train, show and compare tokenizers.

Examples:
  fabella tokenizer train my-stories.txt --tokenizer bpe:4096 --out tokenizers/mine
  fabella tokenizer show tokenizers/mine --text "Once upon a time"
  fabella tokenizer compare tokenizers/mine bytes --text my-stories.txt
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.help import Command
from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, writable
from fabella.cli.text_options import (
    ReadingOptions,
    SourceArguments,
    expand_options,
)
from fabella.config.data import require_special_token
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
MAX_LISTED = 8
"""Special tokens that ``show`` lists."""
SAMPLE_BYTES = 2_000_000
"""Text for the statistics: enough for three digits."""

app = typer.Typer(
    help=HELP,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(cls=Command)
@expand_options
def train(
    reading: ReadingOptions,
    source: SourceArguments,
    out: Annotated[Path, typer.Option(help="Directory to write the tokenizer to.", callback=writable)],
    tokenizer: Annotated[
        str, typer.Option(help="Kind and vocabulary size: bpe[:SIZE] or sentencepiece[:SIZE].")
    ] = "bpe:4096",
    special_token: Annotated[
        list[str] | None, typer.Option(help="Token that no text is encoded to, such as '<|user|>'; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a tokenizer on text; more than 100 MB are sampled evenly."""
    config = loading.parse(tokenizer)
    if not loading.needs_text(config):
        raise UsageError(
            f"Cannot train tokenizer {tokenizer}.", hint="Use --tokenizer bpe:4096 or --tokenizer sentencepiece:4096."
        )
    with atomic_dir(out) as temp:
        sample = tokenizer_sample.sample_bytes(
            SplitDocument(text, document_hash(text), held_out=False) for text in _documents(reading, *source)
        )
        trained = loading.train(config, sample.texts(), _special_tokens(special_token or ()))
        trained.save(temp)
    print_status(sample.message())
    measured = measure_tokenizer(trained, _first(sample.texts()))
    if as_json:
        print_json({"path": str(out), **_info(trained), **_stats(measured)})
    else:
        _print_table([(str(out), measured)])


@app.command("show", cls=Command)
def show_one(
    tokenizer: Annotated[str, typer.Argument(help="A tokenizer directory or file, a dataset, or a hub name.")],
    text: Annotated[str, typer.Option(help="Text to encode.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the kind and the size of a tokenizer, and the tokens of a text."""
    opened = loading.open_any(tokenizer)
    ids: list[int] = opened.encode(text).tolist()
    if as_json:
        pieces = [opened.token_bytes(number).decode(errors="backslashreplace") for number in ids]
        print_json({**_info(opened), "ids": ids, "pieces": pieces, "text": opened.decode(ids)})
        return
    for name, value in _info(opened).items():
        if name == "special_tokens":
            listed = [f"{token} {number}" for token, number in opened.special_tokens.items()]
            more = f", and {len(listed) - MAX_LISTED:,} more" if len(listed) > MAX_LISTED else ""
            value = f"{', '.join(listed[:MAX_LISTED])}{more}"
        elif name == "chat_template":
            value = opened.chat_template.name if opened.chat_template else None
        if value not in (None, ""):
            print_result(f"{name:<14} {value}")
    for number in ids:
        print_result(f"{number:>8}  {_piece(opened, number)}")


@app.command(cls=Command)
@expand_options
def compare(
    reading: ReadingOptions,
    tokenizers: Annotated[list[str], typer.Argument(help="Directories, files, 'bytes', or hub names.")],
    text: Annotated[str, typer.Option(help="Text source to measure on; its first 2 MB are used.")],
    as_json: AsJson = False,
) -> None:
    """Compare tokenizers on a text: bytes per token, tokens per word, coverage and round trip."""
    read = list(_first(_documents(reading, text)))
    measured = [(name, measure_tokenizer(loading.open_any(name), read)) for name in tokenizers]
    if as_json:
        print_json({"tokenizers": [{"name": name, **_stats(stats)} for name, stats in measured]})
    else:
        _print_table(measured)


def _documents(reading: ReadingOptions, *texts: str) -> Iterator[str]:
    return documents(reading.source(*texts), decode_errors=reading.policy(), max_bad_lines=reading.max_bad_lines)


def _special_tokens(tokens: Sequence[str]) -> list[str]:
    try:
        return [require_special_token(token) for token in tokens]
    except ValueError as error:
        raise UsageError(f"{error}.", hint="For example --special-token '<|user|>'.") from error


def _first(texts: Iterable[str]) -> Iterator[str]:
    read = 0
    for text in texts:
        yield text
        read += len(text.encode())
        if read >= SAMPLE_BYTES:
            return


def _info(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "bos_id": tokenizer.bos_id,
        "special_tokens": dict(tokenizer.special_tokens),
        "chat_template": tokenizer.chat_template.source if tokenizer.chat_template else None,
        "fingerprint": tokenizer.fingerprint,
    }


def _stats(measured: TokenizerStats) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in TokenizerStats.__dataclass_fields__}


def _piece(tokenizer: Tokenizer, number: int) -> str:
    return f"'{escaped(tokenizer.token_bytes(number).decode(errors='backslashreplace'))}'"


def _print_table(measured: list[tuple[str, TokenizerStats]]) -> None:
    width = max(9, *(len(name) for name, _ in measured))
    print_result(f"{'tokenizer':<{width}}  vocab_size  bytes/token  tokens/word  coverage   used  round trip")
    for name, stats in measured:
        print_result(
            f"{name:<{width}}  {stats.vocab_size:>10,}  {stats.bytes_per_token:>11.2f}  {stats.fertility:>11.2f}"
            f"  {100 * stats.coverage:>6.1f} %  {100 * stats.used:>3.0f} %  "
            f"{'yes' if stats.round_trip else 'no':>10}"
        )
