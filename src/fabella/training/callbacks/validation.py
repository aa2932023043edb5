"""Validate during training, and stop a training whose validation loss no longer falls."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from typing import Any

from fabella.engine.engine import StepResult
from fabella.errors import TrainingInterrupted
from fabella.runs.checkpoint import BEST_STEP, best_step
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dataset import ALSO
from fabella.runs.run_dir import RunDir
from fabella.tracking.run_log import RunLog
from fabella.tracking.tracker import Row
from fabella.training.callbacks.cadence import Due
from fabella.training.callbacks.metrics import Write
from fabella.training.eval_loss import EvalLoss, ValidationSplit
from fabella.training.loop import Progress
from fabella.training.session import BestCheckpoint, ResumeState, TrainingSession

Measure = Callable[[], EvalLoss]
FINAL_AVERAGE = "final_average"
"""Kind of the row with the loss of the average of the weights at the end of a run."""


class Validate:
    """Measure the loss on the fixed validation subset, and on those of the other texts of ``validation.also``.

    The last step of a run is validated as well, so that its weights can be the best ones.
    """

    def __init__(
        self,
        measure: Measure,
        write: Write,
        *,
        due: Due,
        last_step: int = 0,
        saved: ResumeState | None = None,
        others: Mapping[str, Measure] | None = None,
    ) -> None:
        """``last_step``: of the run; 0 if validation is disabled. ``saved``: ``state`` of an earlier session.

        ``others``: by the name of the text; they decide nothing.
        """
        self.measure, self.write, self.due, self.last_step = measure, write, due, last_step
        self.best = float((saved or {}).get("best_loss", math.inf))
        """Lowest loss so far"""
        self.best_step = best_step(saved or {})
        """Its step; None if it is not known"""
        self.others = others or {}
        self.loss = math.inf
        """Latest loss; infinite before the first validation"""
        self.measured = False
        """Whether the latest step was validated"""
        self.scheduled = False
        """Whether the latest step was validated because of the cadence, and not only as the last one"""
        self.improved = False
        """Whether the latest step was validated and is the best so far; ``SaveCheckpoint`` saves it then"""

    def state(self) -> dict[str, float]:
        """Return the values for a checkpoint."""
        if not math.isfinite(self.best):
            return {}
        return {"best_loss": self.best, **({} if self.best_step is None else {BEST_STEP: self.best_step})}

    def is_due(self, progress: Progress) -> bool:
        """Return whether the step that led to ``progress`` is validated."""
        return self.due(progress) or progress.step == self.last_step

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self.scheduled, self.measured = self.due(progress), self.is_due(progress)
        self.improved = False
        if not self.measured:
            return
        for row in self.measure_rows(progress.step):
            self.write(row)

    def measure_rows(self, step: int) -> list[Row]:
        """Return the losses after ``step`` as rows, that of the run's own text first."""
        loss = self.measure()
        self.loss = loss.loss
        self.improved = loss.loss < self.best
        if self.improved:
            self.best, self.best_step = loss.loss, step
        rows: list[Row] = [loss_row("validation", step, loss)]
        return rows + [{**loss_row(ALSO, step, measure()), "name": name} for name, measure in self.others.items()]


class FirstValidation:
    """The losses of the weights that a run begins with, measured before its first step and written after it.

    Until the first step a resumed run is not changed. Register it after ``CommitRecord``.
    """

    def __init__(self, validate: Validate, write: Write, session: TrainingSession) -> None:
        self.validate, self.write, self.session = validate, write, session
        self._rows: list[Row] = []

    def measure(self) -> None:
        """Measure the losses at step 0. All ranks must call it."""
        self._rows = self.validate.measure_rows(0)

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if not self._rows:
            return
        for row in self._rows:
            self.write(row)
        self._rows = []
        if self.session.is_main:
            self.session.run_dir.set_pointer("best", 0)  # until a later one is better


class EarlyStop:
    """Request the end of the training after ``patience`` validations without a new best loss; 0 disables it.

    A validation that is due only because the run ends does not count, so that a longer run stops at the same step.
    """

    def __init__(self, validate: Validate, *, patience: int, since_best: int = 0) -> None:
        """``since_best``: validations after the best one, in earlier sessions. Register it after ``validate``."""
        self.validate, self.patience, self.since_best = validate, patience, since_best

    @property
    def should_stop(self) -> bool:
        """Whether the training must end after this step."""
        return 0 < self.patience <= self.since_best

    def state(self) -> dict[str, float]:
        """Return the values for a checkpoint."""
        return {"validations_since_best": self.since_best} if self.patience else {}

    def message(self, step: int) -> str:
        """Return the reason for stopping, as a sentence."""
        return (
            f"Stopped at step {step:,}: none of the last {self.since_best} validation losses was below "
            f"{self.validate.best:.4f} (validation.early_stopping_patience). The best checkpoint is kept; "
            "fabella generate loads it."
        )

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if self.validate.improved:
            self.since_best = 0
        elif self.validate.scheduled:
            self.since_best += 1


def loss_row(kind: str, step: int, loss: EvalLoss) -> dict[str, Any]:
    """Return a loss as a row of metrics.jsonl."""
    return {"kind": kind, "step": step, **dataclasses.asdict(loss), "perplexity": loss.perplexity}


def best_checkpoint(run_dir: RunDir) -> BestCheckpoint | None:
    """Return the best checkpoint of a run and its loss, from its metrics; None if there is none."""
    best = run_dir.read_pointer("best")
    rows = [row for row in read_rows(run_dir.path / "metrics.jsonl") if row["kind"] == "validation"]
    values = [row["bits_per_byte"] for row in rows if row["step"] == best and row["bits_per_byte"] is not None]
    return BestCheckpoint(best, values[-1]) if best is not None and values else None


def measure_final_loss(
    session: TrainingSession,
    progress: Progress,
    validation: ValidationSplit,
    log: RunLog,
    others: Mapping[str, Measure] | None = None,
) -> EvalLoss:
    """Return the loss on the whole validation split, measured once a run and stored in its metrics.

    ``others``: measured at the last step as well, unless it was validated.
    """
    rows = [row for row in read_rows(session.run_dir.path / "metrics.jsonl") if row["step"] == progress.step]
    final = _measured(rows, "final", validation)
    if final:
        return final
    known = {row["name"] for row in rows if row["kind"] == ALSO}
    try:
        final_loss = validation.loss()
        for name, measure in (others or {}).items():
            if name not in known:
                log.write_now({**loss_row(ALSO, progress.step, measure()), "name": name})
    except KeyboardInterrupt:
        raise interrupted_before_final_loss(session, progress) from None
    log.write_now(loss_row("final", progress.step, final_loss))
    return final_loss


def measure_final_average(
    session: TrainingSession, progress: Progress, validation: ValidationSplit, log: RunLog
) -> EvalLoss | None:
    """Return the loss of the average of the weights, measured as the final loss; None for a run without an average."""
    if not session.engine.has_average():
        return None
    rows = [row for row in read_rows(session.run_dir.path / "metrics.jsonl") if row["step"] == progress.step]
    loss = _measured(rows, FINAL_AVERAGE, validation)
    if loss is None:
        try:
            with session.engine.using_average():
                loss = validation.loss()
        except KeyboardInterrupt:
            raise interrupted_before_final_loss(session, progress) from None
        log.write_now(loss_row(FINAL_AVERAGE, progress.step, loss))
    return loss


def _measured(rows: Sequence[Row], kind: str, validation: ValidationSplit) -> EvalLoss | None:
    """Return the loss in the last row of a kind; None without one."""
    for row in reversed(rows):
        if row["kind"] == kind:
            return EvalLoss(row["loss"], row["bits_per_byte"], row["tokens"], validation.rule.name)
    return None


def interrupted_before_final_loss(session: TrainingSession, progress: Progress) -> TrainingInterrupted:
    """Return the error of a run that was stopped after its last step."""
    return TrainingInterrupted(
        f"Stopped after the last step, {progress.step:,}, before the final loss was measured; everything is saved.",
        hint=f"Measure it with: fabella resume {quote(str(session.run_dir.path))}",
    )
