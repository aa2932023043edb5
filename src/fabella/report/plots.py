"""Curves of runs as PNG, SVG or PDF files, drawn with matplotlib; charts.py draws those of HTML pages.

Matplotlib is imported with the first plot: it takes half a second, which no training should wait for.
"""

import base64
import importlib
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fabella.report.charts import Axis, Line, finite
from fabella.report.curves import X, curves, run_lines
from fabella.report.published_curves import matching_curves
from fabella.report.run_history import METRICS, RunHistory, names
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dataset import ALSO
from fabella.storage import atomic_write, make_dirs, storage_errors

COLORS = ("#1f5fa8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0f766e", "#52525b")
STYLES: Mapping[str, Mapping[str, Any]] = {
    "thin": {"linewidth": 0.8, "alpha": 0.4},
    "bold": {"linewidth": 1.8},
    "reference": {"linestyle": ":"},
}


def plot_loss(run_dir: Path) -> Path:
    """Plot training and validation loss against the step to ``loss.png`` in the run directory; return its path.

    Raises StorageError if it cannot be written.
    """
    rows = read_rows(run_dir / METRICS)
    validation = _losses(rows, "validation")
    training = run_lines("training", _losses(rows, "train"), 0, noisy=True, background=bool(validation))
    lines = [*training, *([Line("validation", validation, 1)] if validation else [])]
    others = dict.fromkeys(row["name"] for row in rows if row["kind"] == ALSO)
    for color, name in enumerate(others, start=2):
        of_text = [row for row in rows if row["kind"] == ALSO and row["name"] == name]
        lines.append(Line(f"validation on {name}", _losses(of_text, ALSO), color))
    path = run_dir / "loss.png"
    atomic_write(path, plot(run_dir.name, lines, X["step"], Axis("nats per token")))
    return path


def _losses(rows: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Return (step, loss) of the rows of a kind; a null loss, which was not finite, is NaN."""
    return [
        (float(row["step"]), math.nan if row["loss"] is None else float(row["loss"]))
        for row in rows
        if row["kind"] == kind
    ]


def draw(histories: Sequence[RunHistory], directory: Path, x_axis: str, kind: str) -> list[Path]:
    """Write one file per quantity and return their paths. Raises StorageError if they cannot be written.

    ``kind``: png, svg or pdf.
    """
    with storage_errors(directory, f"creating the directory of the {kind.upper()} files"):
        make_dirs(directory)
    paths: list[Path] = []
    for curve in curves(histories, names(histories), matching_curves(histories)):
        path = directory / f"{curve.key}.{kind}"
        atomic_write(path, plot(curve.title, curve.lines[x_axis], X[x_axis], curve.y, kind))
        paths.append(path)
    return paths


def plot(title: str, lines: Sequence[Line], x: Axis, y: Axis, kind: str = "png") -> bytes:
    """Plot lines with a legend and return the file: png, svg or pdf."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    values = [value for line in lines for _, value in finite(line.points)]
    for line in lines:
        color = "#888888" if line.style == "reference" else COLORS[line.color % len(COLORS)]
        points = line.points if line.spread else finite(line.points)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, label=printable(line.name), color=color, **STYLES[line.style])
        if line.spread:
            low, high = zip(*((y - by, y + by) for y, by in zip(ys, line.spread, strict=True)), strict=True)
            axes.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)
    if values and y.is_log(min(values), max(values)):
        axes.set_yscale("log")
    axes.set(
        xlabel=x.label + (" (seconds)" if x.kind == "seconds" else ""),
        ylabel=y.label,
        title=printable(title),
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return render(figure, kind)


def printable(name: str) -> str:
    """Return a name without letters that matplotlib's font lacks, and with dollar signs that start no formula."""
    return "".join(letter for letter in name if letter.isprintable() and ord(letter) < 0x250).replace("$", r"\$")


def render(figure: Any, kind: str = "png") -> bytes:
    """Render a figure of matplotlib as a png with 150 dots per inch, svg, or pdf. Equal figures give equal files."""
    file = io.BytesIO()
    # Text stays text, so that it can be searched and its font changed; without a date, equal figures are equal files.
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with importlib.import_module("matplotlib").rc_context(
        {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "fabella"}
    ):
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return file.getvalue()


def png_image(figure: Any, alternative: str) -> str:
    """Return a figure of matplotlib as an HTML image with its PNG file; ``alternative`` describes it in words."""
    data = base64.b64encode(render(figure)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}">'
