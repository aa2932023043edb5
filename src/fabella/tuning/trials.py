"""One trial of a search: a whole training, ended early where it is hopeless."""

import math
from collections.abc import Callable
from pathlib import Path

from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine import StepResult
from fabella.errors import TrainingInterrupted
from fabella.run_config.files import apply_overrides, validate_config
from fabella.run_config.run import RunConfig
from fabella.tracking.tracker import Row
from fabella.training import run as session
from fabella.training.loop import Progress
from fabella.tuning.space import max_steps


class PrunedError(Exception):
    """Ends a trial that will not become the best; the trial's own, never shown to people."""


class PrunableTrial:
    """Sink and observer of a trial: hears of each validation and asks whether to go on.

    Rows come on the thread behind the training; the answer is acted upon after the next step.
    """

    def __init__(self, hopeless: Callable[[int, float], bool], abandoned: Callable[[], bool]) -> None:
        self._hopeless, self._abandoned, self._ended = hopeless, abandoned, False

    def __call__(self, row: Row) -> None:
        """A measured row."""
        if row["kind"] == "validation" and not self._ended:
            score = float(row.get("bits_per_byte") or math.inf)
            self._ended = not math.isfinite(score) or self._hopeless(int(row["step"]), score)

    def close(self) -> None:
        """Nothing is kept open."""

    def after_step(self, progress: Progress, result: StepResult) -> None:
        """Raises HopelessError once it is known, Interrupted once nobody waits for the trial."""
        if self._ended:
            raise PrunedError
        if self._abandoned():
            raise TrainingInterrupted("The search that this trial is for has ended.")


def as_trial(run: RunConfig, looks: int) -> RunConfig:
    """The run as a trial: ``looks`` validations, no samples, one checkpoint at its end."""
    steps = max_steps(run)
    every = max(1, steps // looks)
    settings = [
        f"validation.every_steps={every}",
        f"checkpoint.every_steps={steps}",
        "checkpoint.keep_last=1",
        f"samples.every_steps={steps}",
    ]
    return validate_config(apply_overrides(run.model_dump(mode="json"), settings))


def seeded(run: RunConfig, seeds: int) -> list[RunConfig]:
    """The run with its own seed, and with those that follow it."""
    return [run.model_copy(update={"seed": run.seed + number}) for number in range(seeds)]


def train(
    run: RunConfig,
    out: Path,
    prepared: TokenizedDataset,
    hopeless: Callable[[int, float], bool],
    abandoned: Callable[[], bool] = lambda: False,
    *,
    device: str,
) -> float:
    """Bits per byte on all held-out text after training ``run`` in ``out``.

    ``hopeless(step, bits per byte)`` is asked at each validation. Raises HopelessError, and whatever ends a training.
    """
    judged = PrunableTrial(hopeless, abandoned)
    outcome = session.start_run(run, out, prepared, device=device, sinks=[judged], observers=[judged.after_step])
    return outcome.score.bits_per_byte
