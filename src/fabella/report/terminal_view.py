"""Live view of a run in the terminal."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fabella.report.axes import number
from fabella.report.run_history import Row, RunHistory, read
from fabella.storage import format_duration

POLL_SECONDS = 2.0
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
COLUMNS = 48


def follow(path: Path, console: Console | None = None, *, poll_seconds: float = POLL_SECONDS) -> None:
    """Show the run in ``path`` until it ends or Ctrl-C; without a terminal, print it once."""
    console = console or Console()
    history = read(path)
    if not console.is_terminal:
        console.print(render(history))
        return
    with Live(render(history), console=console, auto_refresh=False) as live:
        try:
            while history.final is None:
                time.sleep(poll_seconds)
                history = read(path)
                live.update(render(history), refresh=True)
        except KeyboardInterrupt:
            return


def render(history: RunHistory) -> Group:
    """Return the latest metrics, each with its curve as blocks, and the latest sample."""
    last = history.last
    max_steps = getattr(history.run.training.length, "max_steps", 0)
    head = f"{history.name}: step {last['step']:,} of {max_steps:,}" + (", ended" if history.final else "")
    ends = {"": history.final, " of averaged weights": history.final_average}
    table = Table.grid(padding=(0, 2))
    for label, rows, key, spec in (
        ("training loss", history.training, "loss", ".4f"),
        ("validation loss", history.validation, "loss", ".4f"),
        (f"bits per byte, {history.rule}", history.validation, "bits_per_byte", ".4f"),
        *((f"final loss{of}", [row], "loss", ".4f") for of, row in ends.items() if row),
        *((f"loss on {name}", rows, "loss", ".4f") for name, rows in history.other_validation.items()),
        ("tokens per second", history.training, "tokens_per_second", ",.0f"),
        ("gradient norm", history.training, "grad_norm", ".3f"),
    ):
        values = _values(rows, key)
        if values:
            table.add_row(label, Text(format(values[-1], spec), justify="right"), blocks(values))
    samples = [Text(f"\n{row.get('prompt', '')}{row.get('text', '')}"[:600]) for row in history.samples[-1:]]
    progress = Text(f"{number(last['tokens'])} tokens in {format_duration(last['seconds'])}")
    return Group(Text(head, style="bold"), progress, Text(), table, *samples)


def blocks(values: Sequence[float], columns: int = COLUMNS) -> str:
    """Return a curve as one line of text: the mean of each column as a block."""
    width = min(columns, len(values))
    means = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / ((high - low) or 1.0) * (len(BLOCKS) - 1))] for mean in means)


def _values(rows: Sequence[Row], key: str) -> list[float]:
    values = [row.get(key) for row in rows]
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
