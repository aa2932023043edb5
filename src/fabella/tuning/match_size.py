"""Models of several families with the same size: parameters in the blocks, all parameters, or FLOPs per token."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fabella.errors import ConfigError, did_you_mean
from fabella.models.flops import flops_per_token
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, count_non_embedding
from fabella.models.registry import family_label, family_names, is_external, parse_model_config, tiny_config
from fabella.run_config.files import preset, preset_names, validate_config, with_sections
from fabella.run_config.run import RunConfig

Measure = Literal["non-embedding", "total", "flops"]
UNITS: dict[str, str] = {
    "non-embedding": "non-embedding parameters",
    "total": "parameters",
    "flops": "FLOPs per token",
}
HEAD_DIM = 32
"""Dimensions of a head where the run's own model has no heads."""
DIM_STEP, FFN_STEP = 8, 4
MAX_DIM = 4096
MAX_STRETCH = 2.0
"""Largest factor between the ratio of feed-forward to model dimension and that of the family's preset."""
DEFAULT_LAYERS = 4
"""Layers where the config's own model has no number of layers."""


@dataclass(frozen=True, slots=True)
class SizeTarget:
    """What is held equal, how much of it, and the allowed relative deviation."""

    measure: Measure
    size: int
    layers: int
    tolerance: float

    def __str__(self) -> str:
        return f"{self.size:,} {UNITS[self.measure]} (± {100 * self.tolerance:g} %)"

    def deviation(self, model: ModelConfig, length: int) -> float:
        """Return the relative deviation of a model for sequences of ``length`` tokens; negative if it is smaller."""
        return size_of(model, self.measure, length) / self.size - 1


@dataclass(frozen=True, slots=True)
class Proportions:
    """Sizes of a family relative to its width: feed-forward to model dimension, and dimensions per head."""

    ffn_ratio: float
    head_dim: float

    @classmethod
    def of(cls, own: ModelConfig, values: Mapping[str, Any]) -> "Proportions":
        """Return the feed-forward ratio of ``values`` and the head size of the run's own model."""
        ratio = values["ffn_dim"] / values["dim"] if values.get("ffn_dim") else 1.0
        sizes = own.model_dump()
        return cls(ratio, sizes["dim"] / sizes["heads"] if {"dim", "heads"} <= set(sizes) else HEAD_DIM)

    def ffn_bounds(self, dim: int) -> tuple[int, int]:
        """Return the smallest and the largest feed-forward dimension of a width, multiples of FFN_STEP."""
        low = math.ceil(dim * self.ffn_ratio / MAX_STRETCH / FFN_STEP) * FFN_STEP
        return low, max(low, math.floor(dim * self.ffn_ratio * MAX_STRETCH / FFN_STEP) * FFN_STEP)

    def heads(self, dim: int) -> int:
        """Return the number of heads; their dimension is a multiple of 4, because some families rotate half of it."""
        divisors = [heads for heads in range(1, dim + 1) if dim % heads == 0 and dim // heads % 4 == 0]
        return min(divisors, key=lambda heads: (abs(math.log(dim / heads / self.head_dim)), heads))

    def stretch(self, model: ModelConfig) -> float:
        """Return how far a model is from these proportions: the sum of the absolute logarithms of the quotients."""
        sizes = model.model_dump()
        ffn = abs(math.log(sizes["ffn_dim"] / sizes["dim"] / self.ffn_ratio)) if sizes.get("ffn_dim") else 0.0
        head = abs(math.log(sizes["dim"] / sizes["heads"] / self.head_dim)) if sizes.get("heads") else 0.0
        return ffn + head


def size_target(run: RunConfig, measure: str, size: int, layers: int, tolerance: float) -> SizeTarget:
    """Return the target; a size or a number of layers of 0 is that of the run's own model. Raises ConfigError."""
    if measure not in UNITS:
        raise ConfigError(f"Unknown --match {measure!r}.", hint=did_you_mean(measure, get_args(Measure)))
    if not 0 < tolerance < 1:
        raise ConfigError(f"--tolerance {tolerance:g} is not between 0 and 1.", hint="Use e.g. --tolerance 0.02.")
    known: Measure = measure  # pyright: ignore[reportAssignmentType] - one of UNITS
    size = size or size_of(run.model, known, run.data.sequences.length)
    return SizeTarget(known, size, layers or int(getattr(run.model, "layers", DEFAULT_LAYERS)), tolerance)


def size_of(model: ModelConfig, measure: Measure, length: int) -> int:
    """Return the size of a model; FLOPs are those of training on sequences of ``length`` tokens."""
    match measure:
        case "non-embedding":
            return count_non_embedding(model.parameters())
        case "total":
            return count(model.parameters())
        case "flops":
            return flops_per_token(model, length)


def matched_model(run: RunConfig, family: str, target: SizeTarget) -> RunConfig:
    """Return ``run`` with a model of ``family`` within the tolerance of the target.

    Of several widths, the one with the proportions nearest to those of the family's smallest preset is taken. Raises
    ConfigError for an unknown family, one without dim or layers, and a size that it cannot have.
    """
    values = _template(run, family)
    missing = [key for key in ("dim", "layers") if key not in values]
    if missing:
        raise ConfigError(f"Cannot choose the size of a {family_label(family)}: it has no model.{missing[0]}.")
    length = run.data.sequences.length
    values |= {"layers": target.layers, "vocab_size": run.model.vocab_size, "context_length": length}
    proportions = Proportions.of(run.model, values)
    models = list(_candidates(values, proportions, target, length))
    fitting = [model for model in models if abs(target.deviation(model, length)) <= target.tolerance]
    if not fitting:
        raise _impossible(family, models, target, length)
    chosen = min(fitting, key=lambda model: (proportions.stretch(model), abs(target.deviation(model, length))))
    changes: dict[str, Any] = {"model": chosen.model_dump(mode="json"), "name": family_label(family)}
    return validate_config(with_sections(run.model_dump(mode="json"), changes))


def _impossible(family: str, models: list[ModelConfig], target: SizeTarget, length: int) -> ConfigError:
    message = f"No {family_label(family)} with {target.layers} layers has {target}."
    if not models:
        return ConfigError(message, hint="It has no size with these --layers; use others.")
    nearest = min(models, key=lambda model: abs(target.deviation(model, length)))
    size, deviation = size_of(nearest, target.measure, length), target.deviation(nearest, length)
    tolerance = math.ceil(1000 * abs(deviation)) / 1000
    advice = f"--tolerance {tolerance:g}, " if tolerance <= 0.05 else ""  # more would compare unequal models
    return ConfigError(
        f"{message} The nearest has {size:,} ({100 * deviation:+.1f} %).",
        hint=f"Use {advice}--size {size}, or other --layers.",
    )


def _template(run: RunConfig, family: str) -> dict[str, Any]:
    """Return the settings of a model with the proportions of ``family``: those of the run, or its smallest preset.

    A family without a preset has the run's settings of the same name, and defaults for its own.
    """
    if not is_external(family) and family not in family_names():
        raise ConfigError(f"Unknown family '{family}'.", hint=did_you_mean(family, family_names()))
    if run.model.family == family:
        return run.model.model_dump(mode="json")
    models = [model for name in preset_names() if (model := preset(name).model).family == family]
    if models:
        return min(models, key=lambda model: count(model.parameters())).model_dump(mode="json")
    tiny = tiny_config(family)
    fields = type(tiny).model_fields
    required = {key: value for key, value in tiny.model_dump(mode="json").items() if fields[key].is_required()}
    shared = {key: value for key, value in run.model.model_dump(mode="json").items() if key in fields}
    return {**required, **shared, "family": family}


def _candidates(
    values: Mapping[str, Any], proportions: Proportions, target: SizeTarget, length: int
) -> Iterator[ModelConfig]:
    """Yield a model for each possible width, with the feed-forward dimension that brings it nearest to the target."""
    for dim in range(DIM_STEP, MAX_DIM + 1, DIM_STEP):
        low, high = proportions.ffn_bounds(dim)
        narrow, wider = _model(values, proportions, dim, low), _model(values, proportions, dim, low + FFN_STEP)
        if narrow is None or wider is None:
            continue
        smallest = size_of(narrow, target.measure, length)
        slope = size_of(wider, target.measure, length) - smallest  # sizes are linear in the feed-forward dimension
        steps = round((target.size - smallest) / slope) if slope else 0
        model = _model(values, proportions, dim, min(max(low, low + FFN_STEP * steps), high))
        if model is not None:
            yield model
        if smallest > target.size * (1 + target.tolerance):
            return  # even with the smallest feed-forward dimension, wider models are too large


def _model(values: Mapping[str, Any], proportions: Proportions, dim: int, ffn_dim: int) -> ModelConfig | None:
    """Return the model of a width, with its other sizes in proportion; None if the family cannot have them."""
    changes: dict[str, Any] = {"dim": dim}
    if "ffn_dim" in values:
        changes["ffn_dim"] = ffn_dim
    if "embedding" in values:  # minigpt: a width of its own
        changes["embedding"] = max(DIM_STEP, round(dim * values["embedding"] / values["dim"] / DIM_STEP) * DIM_STEP)
    if "heads" in values:
        changes["heads"] = heads = proportions.heads(dim)
        if "kv_heads" in values:
            shared = max(1, round(values["heads"] / values["kv_heads"]))
            changes["kv_heads"] = heads // shared if heads % shared == 0 else heads
    try:
        return parse_model_config({**values, **changes})
    except ValueError:  # pydantic's: a size that does not divide another, or a model beyond the largest
        return None
