"""The quickstart: the storybook, a tokenizer, and a small model trained for about so many minutes."""

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
# The share of the time that goes into steps; the rest is validation, samples and saving (measured on two cores).
SHARE_OF_STEPS = 0.9
# Fewer steps than these tell nothing; a machine too slow or too busy for them takes longer than it was given.
FEWEST, MOST = 200, 50_000
# Stories fill about so much of their window; batches are padded to their longest only.
FILLED = 0.85
TRIALS = 6


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """How fast this machine takes the preset's steps: seconds a step, measured."""

    seconds: float

    def steps_in(self, minutes: float) -> int:
        """Steps that fit into ``minutes``, in tens."""
        steps = int(minutes * 60 * SHARE_OF_STEPS / self.seconds) // 10 * 10
        return min(max(steps, FEWEST), MOST)


def measure_speed(run: RunConfig, *, device: str = "auto") -> MachineSpeed:
    """Take a few steps on random ids with an engine that is thrown away. The fastest counts: others were disturbed."""
    engine = engines.create_engine(run, device=device)
    return MachineSpeed(min(_seconds_of_step(engine, run) for _ in range(TRIALS)))


def _seconds_of_step(engine: Engine, run: RunConfig) -> float:
    shape = (batch_size_at(run.training, 0), round(run.data.sequences.length * FILLED))
    ids = np.random.default_rng(0).integers(0, run.model.vocab_size, shape).astype(np.int32)
    begin = time.perf_counter()
    engine.step(Batch(ids, ids), 0.0).read()
    return time.perf_counter() - begin


def quickstart_run(minutes: float, *, device: str = "auto") -> RunConfig:
    """The quickstart's preset, with as many steps as this machine takes in ``minutes``.

    Raises ConfigError for no time at all.
    """
    if not 0 < minutes <= 24 * 60:
        raise ConfigError(f"--minutes {minutes:g} is no time to train in.", hint="Give more than 0 and at most 1440.")
    template = preset(PRESET)
    pace = measure_speed(template, device=device)
    steps = pace.steps_in(minutes)
    print_status(
        f"{1000 * pace.seconds:,.0f} ms a step: {steps:,} steps, about {format_duration(steps * pace.seconds)}."
    )
    every = max(10, steps // 8)
    overrides = [
        f"training.length.max_steps={steps}",
        f"validation.every_steps={every}",
        f"checkpoint.every_steps={2 * every}",
    ]
    overrides += [f"samples.every_steps={2 * every}", "name=quickstart"]
    return validate_config(apply_overrides(template.model_dump(mode="json"), overrides))


def is_finished(run: RunConfig, step: int | None) -> bool:
    """Whether a run whose newest checkpoint is of ``step`` has come to its end."""
    assert isinstance(run.training.length, MaxSteps), "a saved run is resolved"
    return step is not None and step >= run.training.length.max_steps
