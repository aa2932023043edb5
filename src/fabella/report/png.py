"""The curves as PNG files, for a paper or a message."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fabella.report.charts import LOG_FROM, Axis, Line, finite
from fabella.report.curves import X, curves
from fabella.report.published_curves import fitting
from fabella.report.run_history import RunHistory, names
from fabella.storage import atomic_write, make_folders, storage_errors

COLORS = ("#1f5fa8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0f766e", "#52525b")


def draw_png(histories: Sequence[RunHistory], folder: Path, against: str) -> list[Path]:
    """One picture a quantity in ``folder``; their paths. Raises StorageError where they cannot be written."""
    with storage_errors(folder, "making the folder of pictures"):
        make_folders(folder)
    written: list[Path] = []
    for each in curves(histories, names(histories), fitting(histories)):
        path = folder / f"{each.key}.png"
        atomic_write(path, _picture(each.title, each.lines[against], X[against], each.y))
        written.append(path)
    return written


def _picture(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> bytes:
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    looks: dict[str, dict[str, Any]] = {
        "thin": {"linewidth": 0.8, "alpha": 0.4},
        "bold": {"linewidth": 1.8},
        "reference": {"linestyle": ":"},
    }
    for line in lines:
        color = "#888888" if line.style == "reference" else COLORS[line.color % len(COLORS)]
        points = finite(line.points)
        axes.plot([p[0] for p in points], [p[1] for p in points], label=line.name, color=color, **looks[line.style])
    values = [value for line in lines for _, value in finite(line.points)]
    if y.log and values and min(values) > 0 and max(values) / min(values) > LOG_FROM:
        axes.set_yscale("log")
    axes.set(xlabel=x.label + (" (seconds)" if x.kind == "seconds" else ""), ylabel=y.label, title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
