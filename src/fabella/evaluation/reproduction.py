"""Train a preset of a published system, and record what came out next to what was published.

The published trainings took hours on GPUs. What a shorter one shows depends on what was changed, so the receipt lists
every setting that differs from the preset, the compute, the hardware and the sha256 of the weights. The same command
with the same seed gives the same weights on the same kind of machine.
"""

from dataclasses import dataclass

from fabella.engine import engine as engines
from fabella.errors import UsageError
from fabella.evaluation.receipt import Receipt, describe_training
from fabella.evaluation.step_time import time_steps
from fabella.run_config.files import load_config, preset, preset_names
from fabella.training.session import TrainResult

RECEIPT = "reproduction.json"
TRAINING_SHARE = 0.85
"""Share of the time spent in training steps; the rest is preparing, validation, samples and saving."""
TIMED_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction(Receipt):
    """Receipt of a reproduction; ``changes`` are those of the preset."""

    preset: str
    published: str


def published_presets() -> list[str]:
    """Return the presets that have a published result."""
    return [name for name in preset_names() if preset(name).about.published]


def require_published(name: str) -> None:
    """Raise UsageError for a preset without a published result, and for any other name."""
    if name not in published_presets():
        raise UsageError(
            f"'{name}' is not a preset with a published result.", hint=f"Use one of {', '.join(published_presets())}."
        )


def steps_in(minutes: float, name: str, overrides: tuple[str, ...], *, device: str = "auto") -> int:
    """Return how many steps of a preset with changed settings this machine runs in ``minutes``; at least one.

    Measured on random tokens of the whole length. Raises UsageError for a time that is not positive.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(f"Cannot train for --minutes {minutes:g}.", hint="Use more than 0.")
    run = load_config(name, overrides)
    engine = engines.create_engine(run, device=device)
    measured = time_steps(engine, run, seconds=60 * minutes / 10, most=TIMED_STEPS)
    return max(int(60 * minutes * TRAINING_SHARE / min(measured.first, measured.later)), 1)


def reproduction(name: str, result: TrainResult) -> Reproduction:
    """Return what a training of the preset ``name`` gave. Raises StorageError for a damaged run directory."""
    published = preset(name)
    return Reproduction(preset=name, published=published.about.published, **describe_training(published, result))


def shorter(overrides: tuple[str, ...], steps: int) -> tuple[str, ...]:
    """Return settings with a length of ``steps`` and with validation, checkpoints and samples that suit it."""
    quarter, half = -(-steps // 4), -(-steps // 2)
    return (
        f"training.length={{max_steps: {steps}}}",
        f"validation.every_steps={quarter}",
        f"checkpoint.every_steps={half}",
        f"samples.every_steps={half}",
        *overrides,
    )
