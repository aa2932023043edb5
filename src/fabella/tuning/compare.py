"""Families beside each other: one text, tokenizer and optimizer, models of one size, equal tokens or equal time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError, did_you_mean
from fabella.models.parameters import count
from fabella.models.registry import parse_model_config
from fabella.report.run_history import read
from fabella.run_config.files import preset, validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.training import run as session
from fabella.training.setup.quickstart import measure_speed
from fabella.tuning.space import widest_model

# Whose proportions each family takes: those of the system that it is known by, or of the quickstart.
MODELS = {
    "mingru": "mingru-17m",
    "gpt2": "tinystories-1m",
    "llama": "storybook-1m",
    "hybrid": "storybook-hybrid-1m",
    "minigpt": "minigpt-dev",
}
HEADS = 4


@dataclass(frozen=True, slots=True)
class Compared:
    """One family's run: what it took, and how well it predicts the held-out text."""

    family: str
    folder: Path
    parameters: int
    steps: int
    tokens: int
    seconds: float
    loss: float
    bits_per_byte: float


def matched_model(run: RunConfig, family: str, parameters: int, layers: int) -> RunConfig:
    """``run`` with a model of ``family``, as wide as ``layers`` and at most so many parameters allow.

    Raises ConfigError for no family, and where not even the narrowest fits.
    """
    if family not in MODELS:
        raise ConfigError(f"There is no family '{family}' to compare.", hint=did_you_mean(family, list(MODELS)))
    values = preset(MODELS[family]).model.model_dump(mode="json")
    values |= {"layers": layers, "vocab_size": run.model.vocab_size, "context_length": run.data.sequences.length}
    values |= {key: HEADS for key in ("heads", "kv_heads") if key in values}
    widest = widest_model(values, lambda size: size <= parameters)
    if not widest:
        least = count(parse_model_config(values | {"dim": 8 * HEADS}).parameters())
        raise ConfigError(
            f"No {family} of {layers} layers with {run.model.vocab_size:,} ids has at most {parameters:,} parameters.",
            hint=f"Allow more with --parameters ({least:,} for a dim of {8 * HEADS}), or use a smaller tokenizer.",
        )
    changes: dict[str, Any] = {"model": widest, "name": family}
    return validate_config(with_sections(run.model_dump(mode="json"), changes))


def steps_for_seconds(run: RunConfig, minutes: float, *, device: str = "auto") -> RunConfig:
    """``run`` with as many steps as this machine takes in ``minutes``; its pace is measured."""
    steps = measure_speed(run, device=device).steps_in(minutes)
    return validate_config(with_sections(run.model_dump(mode="json"), {"training.length": {"max_steps": steps}}))


def compare(
    runs: Sequence[RunConfig], prepared: TokenizedDataset, out: Path, *, device: str = "auto"
) -> list[Compared]:
    """Train each in a folder of ``out`` named after its family; the best in bits per byte first."""
    found: list[Compared] = []
    for run in runs:
        outcome = session.start_run(run, out / run.name, prepared, device=device)
        found.append(
            Compared(
                family=run.name,
                folder=outcome.folder,
                parameters=count(run.model.parameters()),
                steps=outcome.progress.step,
                tokens=outcome.progress.tokens,
                seconds=float(read(outcome.folder).last["seconds"]),
                loss=outcome.score.loss,
                bits_per_byte=outcome.score.bits_per_byte,
            )
        )
    return sorted(found, key=lambda one: one.bits_per_byte)
