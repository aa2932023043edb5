"""Compute the perplexity of a text, with the probability of every token.

Examples:
  fabella perplexity runs/quickstart "Once upon a time there was a dog."
  fabella perplexity runs/quickstart --file story.txt
  fabella perplexity runs/quickstart --file story.txt --json
  cat story.txt | fabella perplexity runs/quickstart --file -
"""

import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, CheckpointOption, Device, RunEngine
from fabella.errors import TextError, UsageError
from fabella.generation.generator import load
from fabella.generation.likelihood import Perplexity
from fabella.storage import format_exp
from fabella.tracking.terminal_escape import escape

STANDARD_INPUT = Path("-")


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    text: Annotated[str | None, typer.Argument(help="Text to score.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="File with the text; - is standard input.")] = None,
    max_rows: Annotated[int, typer.Option(min=0, help="Maximum number of rows of the table; --json has all.")] = 100,
    checkpoint: CheckpointOption = "best",
    device: Device = "auto",
    engine: RunEngine = "",
    as_json: AsJson = False,
) -> None:
    if (text is None) == (file is None):
        raise UsageError("Expected one text.", hint="Give it in quotes, or with --file, but not both.")
    content = text if text is not None else _read(file or STANDARD_INPUT)
    generator = load(run, checkpoint=checkpoint, device=device, engine=engine, compile_decoder=False)
    for warning in generator.warnings:
        print_status(warning)
    result = generator.perplexity(content)
    if as_json:
        print_json({"step": generator.step, **_to_json(result), "table": list(result.rows(len(result.ids)))})
    else:
        print_result(_table(result, max_rows))


def _read(file: Path) -> str:
    """Return the content of a file. Raises TextError if it cannot be read or is not UTF-8."""
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
    except OSError as error:
        raise TextError(
            f"Cannot read {file}: {error.strerror}.", hint="Give a text file, or - for standard input."
        ) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{file} is not UTF-8: byte {error.start + 1:,} is 0x{data[error.start]:02x}.",
            hint=f"Convert it: iconv -f latin1 -t utf-8 {quote(str(file))}.",
        ) from error


def _to_json(result: Perplexity) -> dict[str, str | int | float]:
    return {
        "tokens": len(result.ids),
        "bytes": result.bytes,
        "nats_per_token": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "sequences": result.sequences,
    }


def _table(result: Perplexity, limit: int) -> str:
    lines = [f"{'token':<20} {'id':>7} {'probability':>12} {'nats':>8} {'perplexity':>12}"] if limit else []
    for row in result.rows(limit):
        token, nats = _quoted(str(row["token"])), float(row["nats"])
        lines.append(f"{token:<20} {row['id']:>7} {format_exp(-nats, 6):>12} {nats:>8.3f} {format_exp(nats, 1):>12}")
    hidden = len(result.ids) - limit
    if hidden > 0:
        lines.append(f"… and {hidden:,} more tokens (--max-rows {len(result.ids)} shows all)")
    return "\n".join([*lines, "", *_summary(result)])


def _quoted(token: str) -> str:
    """Return a token in quotes on one line."""
    printable = escape(token).replace("\n", "\\n").replace("\t", "\\t")
    return f"'{printable}'"


def _summary(result: Perplexity) -> list[str]:
    lines = [
        f"{len(result.ids):,} tokens, {result.bytes:,} bytes",
        f"{result.loss:.4f} nats per token, perplexity {format_exp(result.loss)}, "
        f"{result.bits_per_byte:.4f} bits per byte",
        "The EOS token precedes the text, as in training.",
    ]
    if result.sequences > 1:
        lines.append(
            f"The text exceeds the context: it was scored in {result.sequences:,} sequences that overlap by half."
        )
    return lines
