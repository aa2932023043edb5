"""What people see while a model learns: one line that moves, and lines that stay."""

import sys
import time
from contextlib import suppress
from typing import TextIO

from fabella.tracking.tracker import Row


def print_status(text: str = "", *, end: str = "\n") -> None:
    """A remark, a warning or progress: standard error, so that a result can be piped.

    Where that is closed, full, or a terminal that has gone, nobody is there to hear it, and no work ends for that.
    """
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - so it is where it was closed
        with suppress(OSError):
            print(text, file=sys.stderr, end=end, flush=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether people look at a standard stream; None: one that was closed when the program began."""
    return stream is not None and stream.isatty()


class ProgressLine:
    """One line that is rewritten in place on a terminal; on anything else, a plain line at most every tenth call."""

    def __init__(self, plain_every: int = 10) -> None:
        self.terminal = is_terminal(sys.stderr)
        self.plain_every = plain_every
        self._calls = 0
        self._width = 0

    def update(self, text: str) -> None:
        """Replace the line (terminal), or print one of ``plain_every`` calls, the first always (elsewhere)."""
        if self.terminal:
            print_status("\r" + text.ljust(self._width), end="")
            self._width = len(text)
        elif self._calls % self.plain_every == 0:
            print_status(text)
        self._calls += 1

    def close(self) -> None:
        """Leave the last line standing."""
        if self.terminal and self._width:
            print_status()
        self._width = 0


class ConsoleTracker:
    """Shows rows: training as one moving line, validation and samples as lines that stay."""

    def __init__(self, steps: int, bits_per_nat: float) -> None:
        """``steps``: of the whole run. ``bits_per_nat``: bits per byte of text for one nat per token."""
        self.steps = steps
        self.bits_per_nat = bits_per_nat
        self.line = ProgressLine()
        self._first: tuple[int, float] | None = None
        self._skipped = 0

    def __call__(self, row: Row) -> None:
        if row["kind"] == "train":
            self._tell_skipped(row)
            self.line.update(self._training(row))
        elif row["kind"] == "validation":
            self._stay(
                f"step {row['step']:,}: validation loss {row['loss']:.4f}, perplexity {row['perplexity']:.2f}, "
                f"{row['bits_per_byte']:.4f} bits per byte"
            )
        elif row["kind"] == "grad_spike":
            self._stay(
                f"step {row['step']:,}: the gradient norm leapt to {row['grad_norm']:.3g}, "
                f"{row['grad_norm'] / row['median']:.1f} times the usual {row['median']:.3g}"
            )
        elif row["kind"] == "rollback":
            self._stay(
                f"back to step {row['step'] - 1:,}, as step {row['failed']:,} failed: {row['times']} of "
                f"{row['allowed']} times; learning rate x {row['lr_factor']:.3g}"
            )
        elif row["kind"] == "sample":
            self._stay(f"step {row['step']:,} tells: {shorten(row['prompt'] + row['text'])}")

    def close(self) -> None:
        """Leave the last line standing."""
        self.line.close()

    def _stay(self, text: str) -> None:
        self.line.close()
        print_status(text)

    def _tell_skipped(self, row: Row) -> None:
        skipped = int(row.get("skipped_steps", 0))
        if skipped > self._skipped:
            self._stay(f"step {row['step']:,}: {skipped:,} steps left out so far, as they were not finite")
        self._skipped = skipped

    def _training(self, row: Row) -> str:
        step = int(row["step"])
        return (
            f"{100 * step // self.steps:3d} %  step {step:,}/{self.steps:,}  loss {row['loss']:.3f}  "
            f"{row['loss'] * self.bits_per_nat:.3f} bits/byte  {row['tokens_per_second']:,.0f} tokens/s  "
            f"{self._left(step)}"
        )

    def _left(self, step: int) -> str:
        """Time left, from the pace since this process began; the monotonic clock never goes back."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return "…"
        first_step, first_time = self._first
        return f"{duration((now - first_time) * (self.steps - step) / max(1, step - first_step))} left"


def duration(seconds: float) -> str:
    """``1:05`` (minutes and seconds), or ``2:03:04`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def shorten(text: str, length: int = 300) -> str:
    """One line of at most ``length`` characters, without control characters: sampled text may hold anything."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= length else line[: length - 1] + "…"
