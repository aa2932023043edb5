"""Time of training steps on this machine, to plan how many of them fit into a given time."""

import time
from dataclasses import dataclass

from fabella.engine.engine import Engine
from fabella.run_config.run import RunConfig
from fabella.training.setup.quickstart import random_batch, seconds_of_step


@dataclass(frozen=True, slots=True)
class StepTime:
    """Measured seconds of training steps."""

    first: float
    """The first step, with compiling."""
    later: float
    """Mean of the later steps; that of the first one if the time was too short for others."""


def time_steps(engine: Engine, run: RunConfig, *, seconds: float, most: int) -> StepTime:
    """Time at least one step on random token ids of the whole length: as many as fit into ``seconds``, up to ``most``.

    Later steps are read only after the last one, as in training, so that a GPU does not wait between them.
    """
    begun = time.perf_counter()
    first = seconds_of_step(engine, run)
    if most < 2 or time.perf_counter() - begun > seconds:
        return StepTime(first, first)
    second = seconds_of_step(engine, run)
    left = seconds - (time.perf_counter() - begun)
    count = min(most - 2, int(left / second))
    if count < 1:
        return StepTime(first, second)
    batch = random_batch(run)
    start = time.perf_counter()
    result = engine.step(batch, 0.0)
    for _ in range(count - 1):
        result = engine.step(batch, 0.0)
    result.read()
    return StepTime(first, (time.perf_counter() - start) / count)
