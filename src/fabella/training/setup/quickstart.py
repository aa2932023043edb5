"""Config of the quickstart: a small story model, trained for a given number of minutes."""

import math
import time
from dataclasses import dataclass

import numpy as np

from fabella.config.training import MaxSteps
from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.engine.engine import Engine
from fabella.errors import ConfigError
from fabella.run_config.files import apply_overrides, preset, validate_config
from fabella.run_config.run import RunConfig
from fabella.storage import format_duration
from fabella.tracking.console import print_status
from fabella.training.schedule import batch_size_at

PRESET = "storybook-hybrid-1m"
STEP_TIME_SHARE = 0.9
"""Share of the time spent in training steps; the rest is validation, samples and saving (measured on two cores)."""
MIN_STEPS, MAX_STEPS = 200, 50_000
"""Limits of the number of steps. A slow machine exceeds the time rather than stop before the model learns anything."""
MEAN_LENGTH_SHARE = 0.85
"""Mean padded length of a batch of stories as a share of the sequence length."""
TIMED_STEPS = 6


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """Measured seconds of a training step of the preset on this machine."""

    seconds: float

    def steps_in(self, minutes: float) -> int:
        """Return the number of steps that fit into ``minutes``, rounded down to tens."""
        steps = int(minutes * 60 * STEP_TIME_SHARE / self.seconds) // 10 * 10
        return min(max(steps, MIN_STEPS), MAX_STEPS)


def measure_speed(run: RunConfig, *, device: str = "auto") -> MachineSpeed:
    """Measure the fastest of a few steps on random token ids, with an engine of its own."""
    engine = engines.create_engine(run, device=device)
    return MachineSpeed(min(seconds_of_step(engine, run, MEAN_LENGTH_SHARE) for _ in range(TIMED_STEPS)))


def seconds_of_step(engine: Engine, run: RunConfig, length_share: float = 1.0) -> float:
    """Time a training step on random token ids, in sequences of ``length_share`` of the length of the config."""
    batch = random_batch(run, length_share)
    start = time.perf_counter()
    engine.step(batch, 0.0).read()
    return time.perf_counter() - start


def random_batch(run: RunConfig, length_share: float = 1.0) -> Batch:
    """Return a global batch of random token ids, in sequences of ``length_share`` of the length of the config."""
    shape = (batch_size_at(run.training, 0), round(run.data.sequences.length * length_share))
    ids = np.random.default_rng(0).integers(0, run.model.vocab_size, shape).astype(np.int32)
    return Batch(ids, ids)


def quickstart_run(minutes: float, *, device: str = "auto") -> RunConfig:
    """Return the quickstart preset with as many steps as this machine runs in ``minutes``.

    Raise ConfigError for a time that is not between 0 and 24 hours.
    """
    if not 0 < minutes <= 24 * 60:
        raise ConfigError(f"Cannot train for --minutes {minutes:g}.", hint="Use more than 0 and at most 1440.")
    template = preset(PRESET)
    speed = measure_speed(template, device=device)
    steps = speed.steps_in(minutes)
    print_status(
        f"{1000 * speed.seconds:,.0f} ms per step: {steps:,} steps, about {format_duration(steps * speed.seconds)}."
    )
    every = max(10, math.ceil(steps / 8))  # eight validations, the last one after the last step
    overrides = [
        f"training.length.max_steps={steps}",
        f"validation.every_steps={every}",
        f"checkpoint.every_steps={2 * every}",
    ]
    overrides += [f"samples.every_steps={2 * every}", "name=quickstart"]
    return validate_config(apply_overrides(template.model_dump(mode="json"), overrides))


def is_finished(run: RunConfig, step: int | None) -> bool:
    """Return whether a run whose latest checkpoint is that of ``step`` is finished."""
    assert isinstance(run.training.length, MaxSteps), "the config of a saved run is resolved"
    return step is not None and step >= run.training.length.max_steps
