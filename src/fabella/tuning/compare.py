"""Comparison of model families with one text, tokenizer, optimizer and model size, for equal tokens or equal time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count
from fabella.models.registry import family_label, family_names, is_external, parse_model_config, tiny_config
from fabella.report.run_history import read
from fabella.run_config.files import preset, preset_names, validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.training import run as session
from fabella.training.setup.quickstart import measure_speed
from fabella.tuning.space import widest_model

HEADS = 4


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """Run of one family: its size, its cost and its score on the validation text."""

    family: str
    run_dir: Path
    parameters: int
    steps: int
    tokens: int
    seconds: float
    loss: float
    bits_per_byte: float


def matched_model(run: RunConfig, family: str, parameters: int, layers: int) -> RunConfig:
    """Return ``run`` with a model of ``family``, as wide as ``layers`` and at most ``parameters`` allow.

    Raises ConfigError for an unknown family, and if not even the narrowest model fits.
    """
    values = _proportions(run, family).model_dump(mode="json")
    missing = [key for key in ("dim", "layers") if key not in values]
    if missing:
        raise ConfigError(f"Cannot choose the size of a {family_label(family)}: it has no model.{missing[0]}.")
    values |= {"layers": layers, "vocab_size": run.model.vocab_size, "context_length": run.data.sequences.length}
    values |= {key: HEADS for key in ("heads", "kv_heads") if key in values}
    widest = widest_model(values, lambda size: size <= parameters)
    if not widest:
        least = count(parse_model_config(values | {"dim": 8 * HEADS}).parameters())
        raise ConfigError(
            f"No {family_label(family)} with {layers} layers and a vocabulary of {run.model.vocab_size:,} tokens "
            f"has at most {parameters:,} parameters.",
            hint=f"Allow more with --parameters ({least:,} for a dim of {8 * HEADS}), or use a smaller tokenizer.",
        )
    changes: dict[str, Any] = {"model": widest, "name": family_label(family)}
    return validate_config(with_sections(run.model_dump(mode="json"), changes))


def _proportions(run: RunConfig, family: str) -> ModelConfig:
    """Return a model with the proportions of ``family``: its smallest preset; without one, of ``run`` or ``tiny()``."""
    if not is_external(family) and family not in family_names():
        raise ConfigError(f"Unknown family '{family}'.", hint=did_you_mean(family, family_names()))
    models = [model for name in preset_names() if (model := preset(name).model).family == family]
    if models:
        return min(models, key=lambda model: count(model.parameters()))
    return run.model if run.model.family == family else tiny_config(family)


def steps_for_seconds(run: RunConfig, seconds: float, *, device: str = "auto") -> RunConfig:
    """Return ``run`` with as many steps as this machine takes in ``seconds``; its speed is measured."""
    steps = measure_speed(run, device=device).steps_in(seconds / 60)
    return validate_config(with_sections(run.model_dump(mode="json"), {"training.length": {"max_steps": steps}}))


def compare(
    runs: Sequence[RunConfig], dataset: TokenizedDataset, out: Path, *, device: str = "auto"
) -> list[FamilyResult]:
    """Train each run in a directory of ``out`` named after its family; return the best in bits per byte first."""
    results: list[FamilyResult] = []
    for run in runs:
        result = session.start_run(run, out / run.name, dataset, device=device)
        results.append(
            FamilyResult(
                family=run.name,
                run_dir=result.folder,
                parameters=count(run.model.parameters()),
                steps=result.progress.step,
                tokens=result.progress.tokens,
                seconds=float(read(result.folder).last["seconds"]),
                loss=result.score.loss,
                bits_per_byte=result.score.bits_per_byte,
            )
        )
    return sorted(results, key=lambda result: result.bits_per_byte)
