"""Detect a training that has diverged, with finite losses: far above chance, or far above its own best."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shlex import quote
from statistics import median

from fabella.engine.engine import StepResult
from fabella.errors import NumericsError
from fabella.tracking.tracker import Row
from fabella.training.callbacks.validation import Validate
from fabella.training.loop import Progress
from fabella.training.session import ResumeState, TrainingSession

WINDOW = 32
"""Losses in the median: single bad batches do not count."""
FACTOR, MARGIN = {"chance": 1.2, "best": 1.5}, 0.5
"""A loss above FACTOR times the reference plus MARGIN nats is far above it. The loss of ordinary trainings begins at
chance, and varies by less than half a nat between windows of 32 steps."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a training that has diverged: commands with a third of its learning rate."""

    run: str
    lr: float

    def text(self, best_step: int | None) -> str:
        """``best_step``: step of the best checkpoint; None without one that is better than chance."""
        run, lr = quote(self.run), f"{self.lr / 3:.2g}"
        other = quote(f"{self.run}-2")
        if best_step is None:
            return f"Start again with a lower learning rate: fabella train {run}/config.yaml --out {other} --lr {lr}"
        return (
            "Continue from the best checkpoint with a lower learning rate: "
            f"fabella resume {run} --checkpoint best --out {other} --lr {lr}"
        )


class DivergedError(NumericsError):
    """A training has diverged at ``step`` and must stop, or be rolled back."""

    def __init__(self, message: str, *, hint: str, step: int) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class Divergence:
    """Report once in a run that the median of the latest losses is far above chance or above its own lowest value.

    In a run of fewer steps than the median needs, a validation loss far above chance is reported, and at the end of the
    run the median of the later half of its losses.

    With ``training.on_divergence: stop`` or ``rollback`` it then ends the training, or this part of it.
    """

    def __init__(
        self, write: Callable[[Row], None], *, chance: float, stop: bool, advice: Callable[[], str], last_step: int = 0
    ) -> None:
        """``chance``: loss of guessing, the log of the vocabulary size. ``stop``: raise an error, too."""
        self.write, self.chance, self.stop, self.advice, self.last_step = write, chance, stop, advice, last_step
        self.best = math.inf
        self.reported = False
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def restore(self, saved: ResumeState) -> "Divergence":
        """Continue from the values of ``state``."""
        self.best = float(saved.get("best_median_loss", math.inf))
        self.reported = bool(saved.get("diverged", 0))
        self._losses.extend(float(loss) for loss in str(saved.get("latest_losses", "")).split())
        return self

    def state(self) -> Mapping[str, float | str]:
        """Return the values for a checkpoint."""
        best = {"best_median_loss": self.best} if math.isfinite(self.best) else {}
        diverged = {"diverged": 1} if self.reported else {}
        return {"latest_losses": " ".join(str(loss) for loss in self._losses), **best, **diverged}

    def check(self, step: int, loss: float) -> None:
        """Take the loss of a step. Raise DivergedError if the training has diverged and must stop."""
        if not math.isfinite(loss):
            return
        self._losses.append(float(f"{loss:.6g}"))
        if self.reported:
            return
        if len(self._losses) < WINDOW:
            if step == self.last_step:
                self._check_few(step)
            return
        middle = median(self._losses)
        self.best = min(self.best, middle)
        for reference, value in (("chance", self.chance), ("best", self.best)):
            if middle > FACTOR[reference] * value + MARGIN:
                self._report(step, {"kind": "divergence", "step": step, "loss": middle, reference: value})
                return

    def _check_few(self, step: int) -> None:
        """Report at the end of a short run that its later losses are far above chance."""
        middle = median(list(self._losses)[len(self._losses) // 2 :])
        if middle > FACTOR["chance"] * self.chance + MARGIN:
            self._report(step, {"kind": "divergence", "step": step, "loss": middle, "chance": self.chance})

    def check_validation(self, step: int, loss: float) -> None:
        """Do the same with a validation loss far above chance, which needs no window of losses: it has many sequences.

        The loss of training must be above chance, too: where it is not, the model only memorizes.
        """
        high = math.isfinite(loss) and loss > FACTOR["chance"] * self.chance + MARGIN
        if high and not self.reported and self._losses and median(self._losses) > self.chance:
            self._report(step, {"kind": "divergence", "step": step, "loss": loss, "chance": self.chance})

    def _report(self, step: int, row: Row) -> None:
        self.reported = True
        advice = self.advice()
        text = _describe(row)
        self.write({**row, "text": text, "advice": advice})
        if self.stop:
            raise DivergedError(text, hint=advice, step=step)


class CheckValidation:
    """Check the losses of ``validate`` for divergence. Register it after ``validate`` and the training losses."""

    def __init__(self, validate: Validate, divergence: Divergence) -> None:
        self.validate, self.divergence = validate, divergence

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if self.validate.measured:
            self.divergence.check_validation(progress.step, self.validate.loss)


def _describe(row: Row) -> str:
    reference = f"chance ({row['chance']:.4g})" if "chance" in row else f"its lowest value ({row['best']:.4g})"
    return f"Step {row['step']:,}: the loss of {row['loss']:.4g} is far above {reference}: the training has diverged."


def watch_divergence(
    session: TrainingSession, write: Callable[[Row], None], saved: ResumeState, best_loss: Callable[[], float]
) -> Divergence:
    """Return the detector of a session. ``best_loss``: the lowest validation loss so far."""
    run = session.run
    chance = math.log(run.model.vocab_size)

    def advice() -> str:
        best = session.run_dir.read_pointer("best") if session.is_main and best_loss() < chance else None
        return Advice(str(session.run_dir.path), run.optimizer.lr).text(best)

    stop = run.training.on_divergence != "report"
    return Divergence(write, chance=chance, stop=stop, advice=advice, last_step=session.steps).restore(saved)
