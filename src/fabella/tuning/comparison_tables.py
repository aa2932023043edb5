"""Result of a comparison of families as a text table, CSV, LaTeX and a plot of the validation curves."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict

from matplotlib.figure import Figure

from fabella.evaluation.confidence import ConfidenceInterval, mean
from fabella.report.plots import COLORS, render
from fabella.report.run_history import Row, read
from fabella.storage import align_columns, format_bytes, format_duration
from fabella.tuning.compare import FamilyResult

CSV_FIELDS = (
    "family", "seed", "parameters", "non_embedding_parameters", "flops_per_token", "memory_bytes", "lr", "steps",
    "tokens", "seconds", "loss", "bits_per_byte", "rule", "run_dir",
)  # fmt: skip


def format_interval(interval: ConfidenceInterval, digits: int = 4) -> str:
    """Return ``1.2345 ± 0.0021``, or the value only if there is no interval."""
    if math.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} ± {(interval.high - interval.low) / 2:.{digits}f}"


def cells(result: FamilyResult) -> dict[str, str]:
    """Return the columns of a family in the text table: heading → value."""
    run = result.runs[0]
    best = math.isnan(result.gap_to_best.low) and result.gap_to_best.value == 0.0
    return {
        "family": result.family,
        "parameters": f"{result.parameters:,}",
        "non-embedding": f"{result.non_embedding_parameters:,}",
        "FLOPs/token": f"{result.flops_per_token:,}",
        "memory": format_bytes(result.memory_bytes),
        "lr": f"{result.lr:.2g}",
        "steps": f"{run.steps:,}",
        "tokens": f"{run.tokens:,}",
        "time": format_duration(result.seconds),
        "loss": format_interval(result.loss),
        f"bits per byte ({run.rule})": format_interval(result.bits_per_byte),
        "gap to best": "-" if best else format_interval(result.gap_to_best),
        "seeds to decide": "-" if result.seeds_to_decide is None else f"{result.seeds_to_decide:,}",
    }


def text_table(results: Sequence[FamilyResult]) -> list[str]:
    """Format the results as a table, best first."""
    rows = [cells(result) for result in results]
    return align_columns([list(rows[0]), *(list(row.values()) for row in rows)])


def to_csv(results: Sequence[FamilyResult]) -> str:
    """Return one row per run, with full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for result in results:
        for run in result.runs:
            row = asdict(result) | asdict(run)
            writer.writerow(row[field] for field in CSV_FIELDS)
    return file.getvalue()


def to_latex(results: Sequence[FamilyResult], caption: str) -> str:
    """Return a table with one row per family; it needs no LaTeX package."""
    rows = [cells(result) for result in results]
    columns = list(rows[0])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\hline",
        " & ".join(_escaped(name) for name in columns) + r" \\",
        r"\hline",
        *(" & ".join(_escaped(row[name]) for name in columns) + r" \\" for row in rows),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Return text for LaTeX: special characters escaped, ± as a formula, thousands with a thin space."""
    replacements = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(replacements.get(letter) or (f"\\{letter}" if letter in "_%&#${}" else letter) for letter in text)


def draw_curves(results: Sequence[FamilyResult]) -> bytes:
    """Return a PNG: mean validation bits per byte by trained tokens, with a band of the 95 % t interval."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        histories = [read(run.run_dir) for run in result.runs]
        points = _mean_curve([_with_final(history.validation, history.final) for history in histories])
        tokens, color = [x for x, _ in points], COLORS[number % len(COLORS)]
        axes.plot(tokens, [y.value for _, y in points], label=result.family, color=color, linewidth=1.8)
        if len(histories) > 1:
            axes.fill_between(tokens, [y.low for _, y in points], [y.high for _, y in points], color=color, alpha=0.2)
    axes.set(xlabel="tokens", ylabel=f"validation bits per byte ({results[0].runs[0].rule})")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return render(figure)


def _with_final(validation: Sequence[Row], final: Row | None) -> list[Row]:
    """Return the validation rows and the final score, which is on all validation text, if it is at a later step."""
    rows = list(validation)
    return [*rows, final] if final and (not rows or final["step"] > rows[-1]["step"]) else rows


def _mean_curve(curves: Sequence[Sequence[Row]]) -> list[tuple[float, ConfidenceInterval]]:
    """Return (tokens, mean bits per byte) at the steps that all runs have."""
    by_step = [{row["step"]: row for row in rows if row.get("bits_per_byte") is not None} for rows in curves]
    steps = sorted(set.intersection(*(set(rows) for rows in by_step)))
    return [
        (float(by_step[0][step]["tokens"]), mean([float(rows[step]["bits_per_byte"]) for rows in by_step]))
        for step in steps
    ]
