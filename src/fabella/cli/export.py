"""Export a model to a format that other tools read, and compare it with the run before it is kept.

The export is loaded by its target. With float32, logits must differ by at most 1e-4 and greedy text must be equal;
with less precision, bits per byte must differ by at most 0.5 %. Otherwise nothing is written. html is one file that
generates text in any browser, offline; it is checked with Node.js. --checkpoint all writes one directory per checkpoint
of the run.

Examples:
  fabella export runs/quickstart --to hf
  fabella export runs/my-stories --to gguf --precision q8_0 --out exports/my-stories-q8
  fabella export runs/my-stories --to html
  fabella export runs/my-stories --to hf --checkpoint all
  fabella verify exports/quickstart-hf --against runs/quickstart
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.cli.run_options import AsJson, WeightsOption, writable
from fabella.interop.comparison import PROBE_TOKENS
from fabella.interop.export import ALL, ExportedCheckpoints, ExportResult, export, export_checkpoints
from fabella.runs.checkpoint import of_average
from fabella.storage import align_columns, format_bytes, number_of
from fabella.storage.messages import escaped_path


def command(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    to: Annotated[str, typer.Option(help="Format: hf, html, gguf, llama2c, onnx, safetensors.")],
    out: Annotated[
        Path | None, typer.Option(help="New directory of the export; by default exports/RUN-FORMAT.", callback=writable)
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Storage type of the weights: float32, float16, bfloat16, int8, q8_0; not all in all formats."
        ),
    ] = "",
    checkpoint: Annotated[
        str, typer.Option(help="Checkpoint: best, latest, a step number, or all (a directory for each).")
    ] = "best",
    weights: WeightsOption = "trained",
    as_json: AsJson = False,
) -> None:
    if checkpoint == ALL:
        exports = export_checkpoints(
            run, to=to, out=out or "", precision=precision, weights=weights, report=print_status
        )
        print_report(exports, checkpoint_lines, as_json=as_json)
        return
    result = export(
        run, to=to, out=out or "", precision=precision, checkpoint=checkpoint, weights=weights, report=print_status
    )
    print_report(result, lines, as_json=as_json)


def lines(result: ExportResult) -> list[str]:
    """Format the result as text."""
    measured, precision = result.comparison, result.comparison.precision
    reader = "" if measured.decoder == "float32" else f", as Fabella's {measured.decoder} decoder"
    ties = f" ({measured.greedy_ties} up to a tie of two tokens)" if measured.greedy_ties else ""
    rounded = ""
    if measured.rounding is not None:
        rounded = f", by {measured.rounding.rest:.2g} on average if both compute {measured.rounding.name}"
    return [
        f"{escaped_path(result.path)} equals step {result.step:,}{of_average(result.weights)} "
        f"({format_bytes(result.bytes)}, {precision}).",
        f"  loaded by         {measured.target}",
        f"  logits            differ by at most {measured.max_logit_difference:.2g}{rounded}",
        f"  greedy text       equal for {measured.greedy_equal} of {measured.prompts} prompts, "
        f"{measured.tokens} tokens each{ties}{reader}",
        f"  bits per byte     {measured.target_bits_per_byte:.4f}, the run {measured.bits_per_byte:.4f} "
        f"({measured.text}, the same rows of at most {PROBE_TOKENS} tokens)",
        f"  tokenizer         {measured.tokenizer}",
        f"  speed             {measured.tokens_per_second:,.0f} tokens/s, {measured.prompts} prompts in one batch",
    ]


def checkpoint_lines(result: ExportedCheckpoints) -> list[str]:
    """Format the exports of all checkpoints as a table."""
    first = result.exports[0].comparison
    size = f"{number_of(len(result.exports), 'checkpoint')}, {format_bytes(result.bytes)}, {first.precision}"
    rows = [("step", "logits differ", "greedy equal", "bits per byte", "the run", "directory")]
    for export_ in result.exports:
        measured = export_.comparison
        rows.append(
            (
                f"{export_.step:,}",
                f"{measured.max_logit_difference:.2g}",
                f"{measured.greedy_equal} of {measured.prompts}",
                f"{measured.target_bits_per_byte:.4f}",
                f"{measured.bits_per_byte:.4f}",
                export_.path.name,
            )
        )
    return [
        f"{escaped_path(result.path)} equals its run ({size}).",
        f"  loaded by {first.target}; bits per byte of {first.text}",
        *(f"  {line}" for line in align_columns(rows, left=(5,))),
    ]
