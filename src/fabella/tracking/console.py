"""Console output of a training: one progress line that is rewritten, and permanent lines."""

import sys
import time
from contextlib import suppress
from typing import TextIO

from fabella.storage import format_duration, format_exp
from fabella.tracking.notebook import is_notebook
from fabella.tracking.tracker import Row


def print_status(text: str = "", *, end: str = "\n") -> None:
    """Print a note, a warning or progress to standard error, so that results on standard output can be piped.

    An error while printing is ignored: standard error may be closed or full, and the work must not end for that.
    """
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - None if it was closed
        with suppress(OSError):
            print(text, file=sys.stderr, end=end, flush=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream is a terminal. None stands for one that was closed when the program started."""
    return stream is not None and stream.isatty()


class ProgressLine:
    """Progress line, rewritten in place on a terminal and in a notebook; elsewhere, a plain line at times."""

    def __init__(self, plain_every: int = 10) -> None:
        self.terminal = is_terminal(sys.stderr) or is_notebook(sys.stderr)
        self.plain_every = plain_every
        self._calls = 0
        self._width = 0

    def update(self, text: str) -> None:
        """Rewrite the line on a terminal or in a notebook; elsewhere, print one of ``plain_every`` updates."""
        if self.terminal:
            print_status("\r" + text.ljust(self._width), end="")
            self._width = len(text)
        elif self._calls % self.plain_every == 0:
            print_status(text)
        self._calls += 1

    def close(self) -> None:
        """End the line, so that it stays visible."""
        if self.terminal and self._width:
            print_status()
        self._width = 0


class ConsoleTracker:
    """Print rows: training as a progress line; validation, samples and warnings as permanent lines."""

    def __init__(self, steps: int, bits_per_nat: float) -> None:
        """``steps``: steps of the whole run. ``bits_per_nat``: bits per byte at a loss of one nat per token."""
        self.steps = steps
        self.bits_per_nat = bits_per_nat
        self.line = ProgressLine()
        self._first: tuple[int, float] | None = None
        self._skipped = 0
        self._spikes: list[Row] | None = None
        """Gradient norm spikes after the first, which are printed together; None before the first"""

    def __call__(self, row: Row) -> None:
        if row["kind"] == "train":
            self._print_skipped(row)
            self.line.update(self._progress(row))
        elif row["kind"] == "validation":
            self._print_spikes()
            self._print(
                f"step {row['step']:,}: validation loss {row['loss']:.4f}, perplexity {format_exp(row['loss'])}, "
                f"{row['bits_per_byte']:.4f} bits per byte{_rule(row)}"
            )
        elif row["kind"] == "validation_also":
            self._print(
                f"step {row['step']:,}: on the text of {row['name']}: loss {row['loss']:.4f}, "
                f"{row['bits_per_byte']:.4f} bits per byte{_rule(row)}"
            )
        elif row["kind"] == "grad_spike":
            self._print_spike(row)
        elif row["kind"] == "divergence":
            self._print(f"warning: {row['text']} {row['advice']}")
        elif row["kind"] == "rollback":
            reason = "diverged" if row.get("diverged") else "was not finite"
            self._print(
                f"rollback {row['times']} of {row['allowed']} to step {row['step'] - 1:,}, because step "
                f"{row['failed']:,} {reason}; learning rate factor {row['lr_factor']:.3g}"
            )
        elif row["kind"] == "sample":
            self._print(f"step {row['step']:,} sample: {shorten(row['prompt'] + row['text'])}")

    def close(self) -> None:
        """Print the last spikes and end the progress line."""
        self._print_spikes()
        self.line.close()

    def _print(self, text: str) -> None:
        self.line.close()
        print_status(text)

    def _print_spike(self, row: Row) -> None:
        """Print the first spike; keep the others."""
        if self._spikes is not None:
            self._spikes.append(row)
            return
        self._spikes = []
        self._print(f"step {row['step']:,}: gradient norm spike: {_size(row)}")

    def _print_spikes(self) -> None:
        """Print the spikes since the last call in one line."""
        if self._spikes:
            largest = max(self._spikes, key=lambda row: row["grad_norm"] / row["median"])
            count = f"{len(self._spikes):,} more gradient norm spike{'s' if len(self._spikes) > 1 else ''}"
            self._print(f"{count}, the largest at step {largest['step']:,}: {_size(largest)}")
            self._spikes = []

    def _print_skipped(self, row: Row) -> None:
        skipped = int(row.get("skipped_steps", 0))
        if skipped > self._skipped:
            self._print(f"step {row['step']:,}: {skipped:,} non-finite steps skipped so far")
        self._skipped = skipped

    def _progress(self, row: Row) -> str:
        step = int(row["step"])
        speed = row.get("tokens_per_second")  # absent in the first row, which includes the warm-up
        return "  ".join((
            f"{100 * step // self.steps:3d} %",
            f"step {step:,}/{self.steps:,}",
            f"loss {row['loss']:.3f}",
            f"{row['loss'] * self.bits_per_nat:.3f} bits/byte",
            *([] if speed is None else [f"{speed:,.0f} tokens/s"]),
            self._time_left(step),
        ))  # fmt: skip

    def _time_left(self, step: int) -> str:
        """Return the time left, from the average speed of this process."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return "…"
        first_step, first_time = self._first
        return f"{format_duration((now - first_time) * (self.steps - step) / max(1, step - first_step))} left"


def _size(row: Row) -> str:
    return f"{row['grad_norm']:.3g}, {row['grad_norm'] / row['median']:.1f} times the median"


def shorten(text: str, length: int = 300) -> str:
    """Return one line of at most ``length`` characters, with control characters replaced by spaces."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= length else line[: length - 1] + "…"


def _rule(row: Row) -> str:
    """Return the name of the rule of a score in parentheses."""
    return f" ({row['rule']})" if "rule" in row else ""
