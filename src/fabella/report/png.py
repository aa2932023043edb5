"""Curves of runs as PNG images, drawn with matplotlib; charts.py draws those of HTML pages as SVG."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fabella.report.charts import Axis, Line, finite
from fabella.report.curves import X, curves
from fabella.report.published_curves import matching_curves
from fabella.report.run_history import METRICS, RunHistory, names
from fabella.runs.metrics_log import read_rows
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
    lines = [Line("training", _losses(rows, "train"), 0, "thin"), Line("validation", _losses(rows, "validation"), 1)]
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


def draw_png(histories: Sequence[RunHistory], directory: Path, x_axis: str) -> list[Path]:
    """Write one PNG file per quantity and return their paths. Raises StorageError if they cannot be written."""
    with storage_errors(directory, "creating the directory of the PNG files"):
        make_dirs(directory)
    paths: list[Path] = []
    for curve in curves(histories, names(histories), matching_curves(histories)):
        path = directory / f"{curve.key}.png"
        atomic_write(path, plot(curve.title, curve.lines[x_axis], X[x_axis], curve.y))
        paths.append(path)
    return paths


def plot(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> bytes:
    """Plot lines with a legend and return the PNG file."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    values = [value for line in lines for _, value in finite(line.points)]
    for line in lines:
        color = "#888888" if line.style == "reference" else COLORS[line.color % len(COLORS)]
        points = finite(line.points)
        axes.plot([p[0] for p in points], [p[1] for p in points], label=line.name, color=color, **STYLES[line.style])
    if values and y.is_log(min(values), max(values)):
        axes.set_yscale("log")
    # The name of a run may have letters that matplotlib's font lacks, and dollar signs, which would start a formula.
    printable = "".join(letter for letter in title if letter.isprintable() and ord(letter) < 0x250)
    axes.set(
        xlabel=x.label + (" (seconds)" if x.kind == "seconds" else ""),
        ylabel=y.label,
        title=printable.replace("$", r"\$"),
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return png_bytes(figure)


def png_bytes(figure: Figure) -> bytes:
    """Render a matplotlib figure as a PNG file with 150 dots per inch."""
    figure.set_dpi(150)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def png_image(figure: Figure, alternative: str) -> str:
    """Return a figure as an HTML image that contains its PNG file; ``alternative`` describes it in words."""
    data = base64.b64encode(png_bytes(figure)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}">'
