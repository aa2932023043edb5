"""What happens beside the steps: log, validate, tell a sample, save, stop. None of them changes what is learned."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from shlex import quote
from typing import Any

from fabella.engine.engine import Engine, Histogram, StepResult
from fabella.errors import DiskFullError, TrainingInterrupted
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, save, set_best
from fabella.runs.checkpoint_validation import require_finite
from fabella.runs.run_dir import RunDir, step_name
from fabella.tracking.tracker import Row
from fabella.tracking.background import BackgroundWorker
from fabella.training.callbacks.throughput import ThroughputMeter
from fabella.training.eval_loss import EvalLoss
from fabella.training.loop import Progress
from fabella.training.signals import Interruption

Write = Callable[[Row], None]
OPTIONAL_PROGRESS = {"stream", "rollbacks"}
"""Parts of a progress that a checkpoint does not speak of where there are none."""


class LogMetrics:
    """Every ``every`` steps: loss, gradient norm, learning rate, pace. Other steps are never waited for."""

    def __init__(self, every: int, rate: Callable[[int], float], write: Write, pace: ThroughputMeter) -> None:
        self.every, self.rate, self.write, self.pace = every, rate, write, pace

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if progress.step % self.every and progress.step != 1:
            return
        measured = result.read()
        self.write({
            "kind": "train",
            "step": progress.step,
            "tokens": progress.tokens,
            **measured,
            "lr": self.rate(progress.step - 1),
            **self.pace.read(progress.tokens),
        })  # fmt: skip


class Validate:
    """Every ``every`` steps: the score on the fixed set. ``improved`` tells Save that this step is the best so far."""

    def __init__(self, every: int, score: Callable[[], EvalLoss], write: Write, best: float, *,
                 patience: int = 0, since_best: int = 0) -> None:  # fmt: skip
        """``best``: the lowest loss so far, infinity where there is none; ``since_best``: scores after it."""
        self.every, self.score, self.write = every, score, write
        self.best, self.patience, self.since_best = best, patience, since_best
        self.improved = False

    @property
    def should_stop(self) -> bool:
        """Whether so many scores were no better than the best that the training is to end."""
        return 0 < self.patience <= self.since_best

    def numbers(self) -> dict[str, float]:
        """For a checkpoint."""
        best = {"best_loss": self.best} if math.isfinite(self.best) else {}
        return {**best, **({"validations_since_best": self.since_best} if self.patience else {})}

    def __call__(self, progress: Progress, result: StepResult) -> None:
        self.improved = False
        if progress.step % self.every:
            return
        score = self.score()
        self.improved = score.loss < self.best
        self.best = min(self.best, score.loss)
        self.since_best = 0 if self.improved else self.since_best + 1
        self.write(row_of("validation", progress.step, score))


def row_of(kind: str, step: int, score: EvalLoss) -> dict[str, Any]:
    """A score as a row of metrics.jsonl."""
    return {"kind": kind, "step": step, **dataclasses.asdict(score), "perplexity": score.perplexity}


class GenerateSamples:
    """Every ``every`` steps: one text for each prompt, so that learning can be read."""

    def __init__(self, every: int, prompts: tuple[str, ...], tell: Callable[[str], str], write: Write) -> None:
        self.every, self.prompts, self.tell, self.write = every, prompts, tell, write

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if progress.step % self.every:
            return
        for prompt in self.prompts:
            self.write({"kind": "sample", "step": progress.step, "prompt": prompt, "text": self.tell(prompt)})


class LogHistograms:
    """Every ``every`` steps: how weights and gradients are spread. At other steps it costs nothing."""

    def __init__(self, every: int, measure: Callable[[], Mapping[str, Histogram]], write: Write) -> None:
        self.every, self.measure, self.write = every, measure, write

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if progress.step % self.every == 0:
            result.read()  # a step that went wrong raises here
            self.write({"kind": "histograms", "step": progress.step, "histograms": self.measure()})


class EarlyStop(Exception):  # noqa: N818 - an end, and no error
    """The training ends after this step, of which everything is saved, though it is not the last one planned."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress


class SaveCheckpoint:
    """Every ``every`` steps, at the best, at the last, and when asked to: a checkpoint. Then, if asked, the end.

    The snapshot is taken here, on the loop's thread, and written behind it. There is never a second one: a save that
    is due waits until the one before is on disk. A full disk ends the run, or with ``checkpoint.on_disk_full: retry`` is
    reported and tried again at the next step; at the end of the training there is no next one, and it is an error.
    """

    def __init__(self, run: RunConfig, folder: RunDir, engine: Engine, validate: Validate, *, steps: int,
                 interruption: Interruption, behind: BackgroundWorker, report: Callable[[str], None],
                 kept: Callable[[], Mapping[str, float | str]] = dict,
                 settle: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        """``kept``: what other observers need to go on exactly; ``settle``: what must be on disk before a save."""
        self.section, self.folder, self.engine, self.validate = run.checkpoint, folder, engine, validate
        self.steps, self.interruption, self.behind, self.report = steps, interruption, behind, report
        self.kept, self.settle = kept, settle
        self._owed: DiskFullError | None = None

    def __call__(self, progress: Progress, result: StepResult) -> None:
        last = progress.step == self.steps or self.validate.should_stop
        due = progress.step % self.section.every_steps == 0 or last
        if due or self.validate.improved or self.interruption.save or self.interruption.stop_requested:
            result.read()  # a step that went wrong raises here, before anything is saved
            self._save(progress)
        if not last and not self.interruption.stop_requested:
            return
        self.behind.flush()
        if self._owed:
            raise self._owed
        if self.validate.should_stop and progress.step < self.steps:
            raise EarlyStop(progress)
        if not last:
            raise TrainingInterrupted(
                f"Stopped at step {progress.step:,} of {self.steps:,}; everything is saved.",
                hint=f"Go on with: fabella resume {quote(str(self.folder.path))}",
            )

    def _save(self, progress: Progress) -> None:
        self.interruption.save = False
        self.behind.flush()
        self._owed = None  # until the writer says otherwise
        known = {**self.kept(), **self.validate.numbers()}
        snapshot = checkpoint_of(self.engine, progress, known)
        self.behind.submit(partial(self._write, progress.step, snapshot, best=self.validate.improved))

    def _write(self, step: int, snapshot: Checkpoint, *, best: bool) -> None:
        require_finite({**snapshot.state.weights, **snapshot.state.optimizer_state}, where=step_name(step))
        try:
            self.settle()
            save(self.folder, step, snapshot)
            if best:
                set_best(self.folder, step)
        except DiskFullError as error:
            if self.section.on_disk_full == "stop":
                raise
            self._owed = error
            self.interruption.save_again()
            self.report(f"Not saved at step {step:,}, tried again at the next: {error}")


def checkpoint_of(engine: Engine, progress: Progress, known: Mapping[str, float | str]) -> Checkpoint:
    """Everything a later process needs to go on exactly; ``known``: by those who look on."""
    reached = {
        name: value for name, value in dataclasses.asdict(progress).items() if value or name not in OPTIONAL_PROGRESS
    }
    return Checkpoint(state=engine.state(), progress={**reached, **known})
