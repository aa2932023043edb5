"""Show how likely a model finds a text, token by token.

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
from fabella.errors import TextError, UsageError
from fabella.generation.generator import load
from fabella.generation.likelihood import Perplexity
from fabella.tracking.terminal_escape import escape

STANDARD_INPUT = Path("-")


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    text: Annotated[str | None, typer.Argument(help="The text itself.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A file, read as one text; - is standard input.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Tokens shown in the table; --json holds all.")] = 100,
    checkpoint: Annotated[str, typer.Option(help="best, latest, or the number of a step.")] = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually the one of the run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    if (text is None) == (file is None):
        raise UsageError("One text is needed.", hint="Give it in quotes, or with --file: not both, and not neither.")
    words = text if text is not None else _read(file or STANDARD_INPUT)
    teller = load(run, checkpoint=checkpoint, device=device, engine=engine, compile_decoder=False)
    for remark in teller.warnings:
        print_status(remark)
    measured = teller.perplexity(words)
    if as_json:
        print_json({"step": teller.step, **_facts(measured), "table": list(measured.rows(len(measured.ids)))})
    else:
        print_result(_table(measured, rows))


def _read(file: Path) -> str:
    """The text of a file, its bytes as they are. Raises TextError where it cannot be read, or is not UTF-8."""
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
    except OSError as error:
        raise TextError(
            f"{file} cannot be read: {error.strerror}.", hint="Give a text file, or - for standard input."
        ) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{file} is not UTF-8: byte {error.start + 1:,} is 0x{data[error.start]:02x}.",
            hint=f"Convert it: iconv -f latin1 -t utf-8 {quote(str(file))}.",
        ) from error


def _facts(measured: Perplexity) -> dict[str, str | int | float]:
    return {
        "tokens": len(measured.ids),
        "bytes": measured.bytes,
        "nats_per_token": measured.loss,
        "perplexity": measured.perplexity,
        "bits_per_byte": measured.bits_per_byte,
        "windows": measured.windows,
    }


def _table(measured: Perplexity, limit: int) -> str:
    lines = [f"{'token':<20} {'id':>7} {'probability':>12} {'nats':>8} {'perplexity':>12}"] if limit else []
    for row in measured.rows(limit):
        token = _quoted(str(row["token"]))
        lines.append(
            f"{token:<20} {row['id']:>7} {row['probability']:>12.6f} {row['nats']:>8.3f} {row['perplexity']:>12,.1f}"
        )
    hidden = len(measured.ids) - limit
    if hidden > 0:
        lines.append(f"… and {hidden:,} more tokens (--rows {len(measured.ids)} shows all)")
    return "\n".join([*lines, "", *_summary(measured)])


def _quoted(token: str) -> str:
    """A token on one line, its spaces to be seen."""
    shown = escape(token).replace("\n", "\\n").replace("\t", "\\t")
    return f"'{shown}'"


def _summary(measured: Perplexity) -> list[str]:
    lines = [
        f"{len(measured.ids):,} tokens, {measured.bytes:,} bytes",
        f"{measured.loss:.4f} nats per token, perplexity {measured.perplexity:,.2f}, "
        f"{measured.bits_per_byte:.4f} bits per byte",
        "The text was read after the end-of-document id, as in training.",
    ]
    if measured.windows > 1:
        lines.append(f"Longer than the model looks back: read in {measured.windows:,} windows that overlap by half.")
    return lines
