"""Compute the perplexity of a text, with the probability of every token.

Examples:
  fabella perplexity runs/quickstart "Once upon a time there was a dog."
  fabella perplexity runs/quickstart --file story.txt
  fabella perplexity runs/quickstart --file story.txt --json
  cat story.txt | fabella perplexity runs/quickstart --file -
  fabella perplexity runs/quickstart --file stories.jsonl --column story --limit 100    each document and all of them
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, CheckpointOption, Device, RunEngine, WeightsOption
from fabella.cli.text_options import ReadingOptions, expand_options
from fabella.config.scoring import story
from fabella.errors import TextError, UsageError
from fabella.generation.generator import load
from fabella.generation.likelihood import Perplexity, exp
from fabella.storage import format_exp
from fabella.text.decode import with_line_ends
from fabella.text.decode_policy import DECODE_ERRORS_HINT, describe_damage
from fabella.text.read_report import ReadReport
from fabella.text.readers import plain
from fabella.text.readers.reader import all_readers, reader_for
from fabella.text.source import documents
from fabella.tracking.terminal_escape import escape

STANDARD_INPUT = Path("-")


@expand_options
def command(
    reading: ReadingOptions,
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    text: Annotated[str | None, typer.Argument(help="Text to score.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File with the text or with documents; - is stdin.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=0, help="Maximum number of rows of the table; --json has all.")] = 100,
    checkpoint: CheckpointOption = "best",
    weights: WeightsOption = "trained",
    device: Device = "auto",
    engine: RunEngine = "",
    as_json: AsJson = False,
) -> None:
    if (text is None) == (file is None):
        raise UsageError("Expected one text.", hint="Give it in quotes, or with --file, but not both.")
    if text is not None and reading != ReadingOptions():
        raise UsageError("Options for reading are only for --file.", hint="Leave them out, or give --file.")
    texts = [text] if text is not None else _read(file or STANDARD_INPUT, reading)
    generator = load(run, checkpoint=checkpoint, weights=weights, device=device, engine=engine, compile_decoder=False)
    for warning in generator.warnings:
        print_status(warning)
    results = [generator.perplexity(content) for content in texts]
    rule = story(generator.context_length).name
    if len(results) > 1:
        _print_documents(results, generator.step, rule, max_rows, as_json=as_json)
        return
    (result,) = results
    if as_json:
        scored = {**_to_json(result), "rule": rule, "scores_eos": False}
        print_json({"step": generator.step, **scored, "table": list(result.rows(len(result.ids)))})
    else:
        print_result(_table(result, rule, max_rows))


def _read(file: Path, reading: ReadingOptions) -> list[str]:
    """Return the content of a plain text file, or the documents of another one. Raises TextError."""
    whole = file == STANDARD_INPUT or (reader_for(file, all_readers()) is plain and reading.separator == "auto")
    notes = ReadReport()
    if whole:
        texts = [_content(file, reading, notes)]
    else:
        policy = reading.policy()
        source = reading.source(str(file))
        texts = list(documents(source, decode_errors=policy, max_bad_lines=reading.max_bad_lines, notes=notes))
    for message in notes.messages():
        print_status(message)
    return texts


def _content(file: Path, reading: ReadingOptions, notes: ReadReport) -> str:
    """Return the text of a file as it is, with its line ends. Raises TextError if it cannot be read or decoded."""
    if unused := reading.changes().keys() - {"encoding"}:
        raise UsageError(f"--{min(unused)} has no effect on one running text.", hint="Leave it out.")
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
    except OSError as error:
        raise TextError(
            f"Cannot read {file}: {error.strerror}.", hint="Give a text file, or - for standard input."
        ) from error
    name, encoding = str(file), str(reading.changes().get("encoding", "auto"))
    raw = b"".join(with_line_ends(iter([data]), name, notes, encoding))
    try:
        return raw.decode("utf-8", {"strict": "strict", "replace": "replace", "skip": "ignore"}[reading.policy()])
    except UnicodeDecodeError as error:
        problem = f"{name}, byte {error.start + 1:,}: {describe_damage(raw, error.start)}"
        raise TextError(problem, hint=f"{notes.encoding_hint(name)}{DECODE_ERRORS_HINT}") from None


def _print_documents(results: Sequence[Perplexity], step: int, rule: str, limit: int, *, as_json: bool) -> None:
    """Print the scores of several documents, and those of all of them."""
    tokens, size = sum(len(result.ids) for result in results), sum(result.bytes for result in results)
    nats = math.fsum(float(result.nats.sum()) for result in results)
    total = {
        "documents": len(results),
        "tokens": tokens,
        "bytes": size,
        "nats_per_token": nats / tokens,
        "perplexity": exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
        "rule": rule,
        "scores_eos": False,
    }
    if as_json:
        print_json({"step": step, **total, "table": [_to_json(result) for result in results]})
        return
    lines = [f"{'document':>8} {'tokens':>9} {'bytes':>10} {'bits per byte':>14} {'perplexity':>12}"] if limit else []
    for number, result in enumerate(results[:limit], 1):
        lines.append(
            f"{number:>8,} {len(result.ids):>9,} {result.bytes:>10,} {result.bits_per_byte:>14.4f} "
            f"{format_exp(result.loss):>12}"
        )
    hidden = len(results) - limit
    if hidden > 0:
        lines.append(f"… and {hidden:,} more documents (--max-rows {len(results)} shows all)")
    lines += ["", f"{len(results):,} documents, {tokens:,} tokens, {size:,} bytes"]
    lines.append(
        f"{nats / tokens:.4f} nats per token, perplexity {format_exp(nats / tokens)}, "
        f"{total['bits_per_byte']:.4f} bits per byte"
    )
    lines.append(_rule(rule))
    print_result("\n".join(lines))


def _to_json(result: Perplexity) -> dict[str, str | int | float]:
    return {
        "tokens": len(result.ids),
        "bytes": result.bytes,
        "nats_per_token": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "sequences": result.sequences,
    }


def _table(result: Perplexity, rule: str, limit: int) -> str:
    lines = [f"{'token':<20} {'id':>7} {'probability':>12} {'nats':>8} {'perplexity':>12}"] if limit else []
    for row in result.rows(limit):
        token, nats = _quoted(str(row["token"])), float(row["nats"])
        lines.append(f"{token:<20} {row['id']:>7} {format_exp(-nats, 6):>12} {nats:>8.3f} {format_exp(nats, 1):>12}")
    hidden = len(result.ids) - limit
    if hidden > 0:
        lines.append(f"… and {hidden:,} more tokens (--max-rows {len(result.ids)} shows all)")
    return "\n".join([*lines, "", *_summary(result, rule)])


def _quoted(token: str) -> str:
    """Return a token in quotes on one line."""
    printable = escape(token).replace("\n", "\\n").replace("\t", "\\t")
    return f"'{printable}'"


def _summary(result: Perplexity, rule: str) -> list[str]:
    lines = [
        f"{len(result.ids):,} tokens, {result.bytes:,} bytes",
        f"{result.loss:.4f} nats per token, perplexity {format_exp(result.loss)}, "
        f"{result.bits_per_byte:.4f} bits per byte",
        _rule(rule),
    ]
    if result.sequences > 1:
        lines.append(
            f"The text exceeds the context: it was scored in {result.sequences:,} sequences that overlap by half."
        )
    return lines


def _rule(rule: str) -> str:
    return f"Rule {rule}: the EOS token precedes the text, as in training; the EOS token after it is not scored."
