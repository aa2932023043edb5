"""One trial of a search: a complete training run, pruned early if its validation is poor."""

import math
from collections.abc import Callable
from pathlib import Path

from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine import StepResult
from fabella.errors import TrainingInterrupted
from fabella.run_config import files
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig
from fabella.tracking.tracker import Row
from fabella.training import run as session
from fabella.training.loop import Progress
from fabella.tuning.space import max_steps


class PrunedError(Exception):
    """Ends a pruned trial; never shown to users."""


class PrunableTrial:
    """Tracker and callback that ends a trial once a validation shows that it is poor.

    Rows arrive on the background thread of the trackers; the training ends after the next step. The last of its
    ``steps`` steps prunes nothing: the trial is trained, and its score counts.
    """

    def __init__(
        self, should_prune: Callable[[int, float], bool], abandoned: Callable[[], bool], *, steps: int
    ) -> None:
        self._should_prune, self._abandoned, self._steps, self._pruned = should_prune, abandoned, steps, False

    def __call__(self, row: Row) -> None:
        """Decide on a validation row; rows of other kinds are ignored."""
        if row["kind"] == "validation" and row["step"] < self._steps and not self._pruned:
            score = float(row.get("bits_per_byte") or math.inf)
            self._pruned = not math.isfinite(score) or self._should_prune(int(row["step"]), score)

    def close(self) -> None:
        """Do nothing: no file is open."""

    def after_step(self, progress: Progress, result: StepResult) -> None:
        """Raise PrunedError if the trial is pruned, and TrainingInterrupted if its search has exited."""
        if self._pruned:
            raise PrunedError
        if self._abandoned():
            raise TrainingInterrupted("The search of this trial has ended.")


def as_trial(run: RunConfig, checks: int) -> RunConfig:
    """Return the run as a trial: ``checks`` validations, one checkpoint at the end, no samples before it."""
    steps = max_steps(run)
    overrides = [
        f"validation.every_steps={math.ceil(steps / checks)}",
        f"checkpoint.every_steps={steps}",
        "checkpoint.keep_last=1",
        "checkpoint.keep_every_steps=0",
        "checkpoint.milestones=[]",
        *(f"{section}.every_epochs=0" for section in ("validation", "checkpoint", "samples")),
        f"samples.every_steps={steps}",
    ]
    return validate_config(files.apply_overrides(run.model_dump(mode="json"), overrides))


def with_seeds(run: RunConfig, seeds: int) -> list[RunConfig]:
    """Return the run with its own seed and with the ``seeds - 1`` seeds after it."""
    return [run.model_copy(update={"seed": run.seed + number}) for number in range(seeds)]


def train(
    run: RunConfig,
    out: Path,
    dataset: TokenizedDataset,
    should_prune: Callable[[int, float], bool],
    abandoned: Callable[[], bool] = lambda: False,
    *,
    device: str,
) -> float:
    """Train ``run`` in ``out`` and return its bits per byte on all validation text.

    ``should_prune(step, bits_per_byte)`` is called at each validation. Raises PrunedError, and the errors of training.
    """
    trial = PrunableTrial(should_prune, abandoned, steps=max_steps(run))
    result = session.start_run(run, out, dataset, device=device, trackers=[trial], callbacks=[trial.after_step])
    if not math.isfinite(result.score.bits_per_byte):
        raise PrunedError
    return result.score.bits_per_byte
