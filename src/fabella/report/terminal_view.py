"""A run in the terminal, while it goes on."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fabella.report.axes import duration, number
from fabella.report.run_history import Row, RunHistory, read

LOOK_SECONDS = 2.0
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
COLUMNS = 48


def follow(path: Path, console: Console | None = None, *, look_seconds: float = LOOK_SECONDS) -> None:
    """Show the run in ``path`` until it has ended, or until Ctrl-C; once, where there is no terminal."""
    console = console or Console()
    history = read(path)
    if not console.is_terminal:
        console.print(render(history))
        return
    with Live(render(history), console=console, auto_refresh=False) as shown:
        try:
            while history.final is None:
                time.sleep(look_seconds)
                history = read(path)
                shown.update(render(history), refresh=True)
        except KeyboardInterrupt:
            return


def render(history: RunHistory) -> Group:
    """Figures, two curves as blocks, and what it told last."""
    last = history.last
    of = getattr(history.run.training.length, "max_steps", 0)
    head = f"{history.name}: step {last['step']:,} of {of:,}" + (", ended" if history.final else "")
    table = Table.grid(padding=(0, 2))
    for word, rows, key, how in (
        ("training loss", history.training, "loss", ".4f"),
        ("validation loss", history.validation, "loss", ".4f"),
        ("bits per byte", history.validation, "bits_per_byte", ".4f"),
        ("tokens a second", history.training, "tokens_per_second", ",.0f"),
        ("gradient norm", history.training, "grad_norm", ".3f"),
    ):
        values = _values(rows, key)
        if values:
            table.add_row(word, Text(format(values[-1], how), justify="right"), blocks(values))
    told = history.samples[-1:]
    sample = [Text(f"\n{row.get('prompt', '')}{row.get('text', '')}"[:600]) for row in told]
    ran = Text(f"{number(last['tokens'])} tokens in {duration(last['seconds'])}")
    return Group(Text(head, style="bold"), ran, Text(), table, *sample)


def blocks(values: Sequence[float], columns: int = COLUMNS) -> str:
    """A curve in one line: the mean of each column as a block, the largest the highest."""
    width = min(columns, len(values))
    means = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / ((high - low) or 1.0) * (len(BLOCKS) - 1))] for mean in means)


def _values(rows: Sequence[Row], key: str) -> list[float]:
    found = [row.get(key) for row in rows]
    return [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]
