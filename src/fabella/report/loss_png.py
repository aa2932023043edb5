"""The loss curve of a run as a picture, drawn from its metrics.jsonl."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fabella.runs.metrics_log import read_rows
from fabella.storage import atomic_write


def plot_loss(folder: Path) -> Path:
    """Draw training and validation loss against the step into ``folder/loss.png``; its path.

    Raises StorageError where it cannot be written.
    """
    rows = read_rows(folder / "metrics.jsonl")
    # A name may hold letters that matplotlib's own font lacks, and dollar signs, which are no formula here.
    title = "".join(letter for letter in folder.name if letter.isprintable() and ord(letter) < 0x250)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_curve(rows, "train"), label="training", color="#7aa2c8", linewidth=1)
    axes.plot(*_curve(rows, "validation"), label="validation", color="#c2410c", linewidth=2, marker="o", markersize=3)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=title.replace("$", r"\$"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    atomic_write(folder / "loss.png", picture.getvalue())
    return folder / "loss.png"


def _curve(rows: Sequence[Mapping[str, Any]], kind: str) -> tuple[list[int], list[float]]:
    chosen = [row for row in rows if row["kind"] == kind and row["loss"] is not None]  # null: it was not finite
    return [int(row["step"]) for row in chosen], [float(row["loss"]) for row in chosen]
