"""A training session: the run, its data, its engine and its process group."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fabella.config.training import MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.engine import Engine
from fabella.run_config.run import RunConfig
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dataset import ALSO, ValidationText
from fabella.runs.run_dir import RunDir
from fabella.storage import format_exp
from fabella.tracking.console import print_status
from fabella.tracking.notebook import html_png, html_table
from fabella.tracking.tracker import Tracker
from fabella.training.eval_loss import EvalLoss
from fabella.training.loop import Callback, Progress, UserCallback
from fabella.training.schedule import learning_rate

ResumeState = Mapping[str, int | float | str]
"""Progress and callback state of a checkpoint; empty for a run without one."""


@dataclass(frozen=True, slots=True)
class Extras:
    """Trackers and callbacks in addition to those of the config."""

    trackers: Sequence[Tracker] = ()
    """Receive every row, on the background thread"""
    callbacks: Sequence[Callback] = ()
    """Called on the training thread, before the step is saved"""
    user_callbacks: Sequence[UserCallback] = ()
    """Those of ``fabella.train(..., callbacks=[...])``; the manifest has their names"""


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """Checkpoint with the lowest loss on the fixed validation subset."""

    step: int
    bits_per_byte: float
    """On the validation subset"""


@dataclass(frozen=True, slots=True, repr=False)
class TrainResult:
    """Result of a finished run."""

    path: Path
    """The run directory"""
    progress: Progress
    score: EvalLoss
    """Loss on the whole validation split"""
    best: BestCheckpoint | None = None
    """Best checkpoint, which generating loads; None if no step was validated"""
    average_score: EvalLoss | None = None
    """Loss of the average of the weights on the whole validation split; None without ``optimizer.average``"""

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, training loss in nats per token) of every logged step; NaN for a loss that was not finite."""
        return self._losses("train")

    @property
    def validation_losses(self) -> list[tuple[int, float]]:
        """(step, loss in nats per token) of every validation while training."""
        return self._losses("validation")

    @property
    def other_validation_losses(self) -> dict[str, list[tuple[int, float]]]:
        """The same for each text of ``validation.also``, by its name."""
        losses: dict[str, list[tuple[int, float]]] = {}
        for row in read_rows(self.path / "metrics.jsonl"):
            if row["kind"] == ALSO:
                losses.setdefault(row["name"], []).append((row["step"], row["loss"]))
        return losses

    def _losses(self, kind: str) -> list[tuple[int, float]]:
        rows = (row for row in read_rows(self.path / "metrics.jsonl") if row["kind"] == kind)
        return [(row["step"], math.nan if row["loss"] is None else row["loss"]) for row in rows]

    def __repr__(self) -> str:
        steps, tokens = self.progress.step, self.progress.tokens
        return f"TrainResult({str(self.path)!r}: {steps:,} steps, {tokens:,} tokens; {self.score})"

    def _repr_html_(self) -> str:
        """Return the result and the loss curve, for a notebook."""
        head = ("run", "steps", "tokens", "held-out loss", "perplexity", f"bits per byte ({self.score.rule})")
        score = f"{self.score.loss:.4f}", format_exp(self.score.loss), f"{self.score.bits_per_byte:.4f}"
        row = (str(self.path), f"{self.progress.step:,}", f"{self.progress.tokens:,}", *score)
        return html_table(head, [row]) + html_png(self.path / "loss.png", "loss by step")


class PendingRecord:
    """What a session changes in the record of its run before the first row: written once, by ``commit``."""

    def __init__(self, write: Callable[[], None] = lambda: None) -> None:
        self._write: Callable[[], None] | None = write

    def commit(self) -> None:
        """Write it, unless it is written already."""
        if self._write is not None:
            self._write()
            self._write = None


@dataclass(frozen=True, slots=True)
class TrainingSession:
    """Everything that training a run needs."""

    run: RunConfig
    run_dir: RunDir
    dataset: TokenizedDataset
    engine: Engine
    process_group: ProcessGroup
    extras: Extras = Extras()
    other_texts: Sequence[ValidationText] = ()
    """Texts of ``validation.also``"""
    record: PendingRecord = field(default_factory=PendingRecord)
    """Committed after the first step of the session: a session that fails before it changes nothing in the run"""

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which logs and saves."""
        return self.process_group.rank_info.is_main

    @property
    def steps(self) -> int:
        """Training steps of the whole run."""
        assert isinstance(self.run.training.length, MaxSteps), "the config of a saved run is resolved"
        return self.run.training.length.max_steps

    def rate(self, step: int, rollbacks: int = 0) -> float:
        """Return the learning rate of ``step`` (from 0), after so many rollbacks."""
        policy = self.run.training.rollback
        factor = policy.lr_factor**rollbacks if policy else 1.0
        return learning_rate(self.run.optimizer, step, self.steps) * factor

    def print(self, text: str) -> None:
        """Print a message, on rank 0 only."""
        if self.is_main:
            print_status(text)
