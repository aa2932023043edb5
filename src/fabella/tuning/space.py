"""Search space of `fabella tune`: config keys and the range that each is drawn from."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from fabella.config.base import ConfigModel
from fabella.config.scoring import validation_rule
from fabella.config.training import MaxSteps
from fabella.errors import ConfigError, did_you_mean
from fabella.models.parameters import count
from fabella.models.registry import parse_model_config
from fabella.run_config import files
from fabella.run_config.files import known_keys, parse_yaml, read_text, validate_config
from fabella.run_config.run import RunConfig

Json = Any


class Suggests(Protocol):
    """Methods of an Optuna trial that draw a value."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number from ``low`` to ``high``."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of ``choices``."""
        ...


class _Interval(ConfigModel):
    low: float
    high: float

    @model_validator(mode="after")
    def _low_below_high(self) -> "_Interval":
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
        return self


class UniformRange(_Interval):
    """Number from ``low`` to ``high``, uniform."""

    kind: Literal["linear"] = "linear"


class LogUniformRange(_Interval):
    """Number from ``low`` to ``high``, uniform in its logarithm; for learning rates."""

    kind: Literal["log"] = "log"
    low: float = Field(gt=0.0)


class CategoricalRange(ConfigModel):
    """One of at least two JSON values."""

    kind: Literal["choice"] = "choice"
    of: Annotated[tuple[Json, ...], Field(strict=False, min_length=2)]


class Joint(ConfigModel):
    """One of at least two groups of settings that change jointly; the name of the range is free, as it is no key."""

    kind: Literal["joint"] = "joint"
    of: Annotated[tuple[dict[str, Json], ...], Field(strict=False, min_length=2)]


Range = Annotated[UniformRange | LogUniformRange | CategoricalRange | Joint, Field(discriminator="kind")]
Space = Mapping[str, UniformRange | LogUniformRange | CategoricalRange | Joint]
_SPACE: TypeAdapter[dict[str, UniformRange | LogUniformRange | CategoricalRange | Joint]] = TypeAdapter(
    dict[str, Range]
)


RULE_KEYS = ("data.sequences", "data.sequences.kind", "data.sequences.length", "data.sequences.stride")
"""Settings that decide by which rule a training is scored."""


def read_space(path: Path, run: RunConfig) -> Space:
    """Read a space from a YAML file with one line per range, e.g. ``optimizer.lr: {kind: log, low: 1e-4, high: 1e-2}``.

    Raises ConfigError for an invalid range and for a key that the config of ``run`` does not have.
    """
    try:
        space = _SPACE.validate_python(parse_yaml(read_text(path), where=str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise ConfigError(
            f"Cannot use {path}, {where}: {first['msg']}.",
            hint="Write e.g. NAME: {kind: log, low: 1e-4, high: 1e-2}. Kinds: linear, log, choice, joint.",
        ) from None
    known = known_keys(run.model.family)
    for name, range_ in space.items():
        for key in [name] if not isinstance(range_, Joint) else [key for group in range_.of for key in group]:
            if key not in known:
                raise ConfigError(f"Unknown key '{key}' in {path}.", hint=did_you_mean(key, known))
            if key in RULE_KEYS:
                raise ConfigError(
                    f"{path} searches {key}, but the sequences decide the rule by which a trial is scored "
                    f"({validation_rule(run.data.sequences)}): trials would not be comparable.",
                    hint=f"Leave out {key}. Train a run with each value, and compare them: fabella compare RUN RUN",
                )
    return space


def default_space(run: RunConfig, max_parameters: int = 0) -> Space:
    """Return the ranges worth searching for any run: learning rate, weight decay, second beta, warm-up, batch size.

    ``max_parameters`` above 0 adds model shapes with at most this many parameters.
    """
    optimizer, batch_size = run.optimizer, run.training.micro_batch_size
    betas: tuple[float, float] | None = getattr(optimizer, "betas", None)
    space: dict[str, UniformRange | LogUniformRange | CategoricalRange | Joint] = {
        "optimizer.lr": LogUniformRange(low=optimizer.lr / 5, high=optimizer.lr * 5),
        **(
            {"optimizer.betas": CategoricalRange(of=tuple([betas[0], beta] for beta in (0.95, 0.98, 0.99, 0.999)))}
            if betas
            else {}
        ),
        "training.micro_batch_size": CategoricalRange(
            of=tuple(sorted({max(1, batch_size // 2), batch_size, batch_size * 2}))
        ),
    }
    if hasattr(optimizer, "weight_decay"):
        space["optimizer.weight_decay"] = UniformRange(low=0.0, high=0.3)
    if warm_ups := _warm_ups(run):
        space["warm-up"] = Joint(of=warm_ups)
    if max_parameters:
        space["shape"] = Joint(of=shapes(run, max_parameters))
    return space


def _warm_ups(run: RunConfig) -> tuple[dict[str, Json], ...]:
    """Return the schedule with shorter and longer warm-ups; empty unless it is a warm-up and one more phase."""
    schedule = run.optimizer.schedule
    if len(schedule) != 2 or (schedule[0].start, schedule[0].end) != (0.0, 1.0):
        return ()
    first, second = (phase.model_dump(mode="json") for phase in schedule)
    return tuple(
        {"optimizer.schedule": [first | {"length": f"{share}%"}, second | {"length": f"{100 - share}%"}]}
        for share in (1, 2, 5, 10, 20)
    )


def shapes(run: RunConfig, max_parameters: int) -> tuple[dict[str, Json], ...]:
    """Return models of several depths, each as wide as ``max_parameters`` allows, with at least 70 % of them.

    The ratio of feed-forward dimension to model dimension stays. Raises ConfigError if fewer than two shapes fit.
    """
    values = run.model.model_dump(mode="json")
    candidates: list[dict[str, Json]] = []
    for layers in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24):
        widest = widest_model(values | {"layers": layers}, lambda size: size <= max_parameters)
        if widest and count(parse_model_config(widest).parameters()) >= max_parameters * 0.7:
            keys = [key for key in widest if widest[key] != values.get(key)] or ["layers"]
            candidates.append({f"model.{key}": widest[key] for key in sorted({*keys, "layers", "dim"})})
    if len(candidates) < 2:
        raise ConfigError(
            f"Fewer than two shapes of {run.model.family} have at most {max_parameters:,} parameters.",
            hint=f"The model of this run has {count(run.model.parameters()):,}; allow about as many.",
        )
    return tuple(candidates)


def widest_model(values: Mapping[str, Json], fits: Callable[[int], bool]) -> dict[str, Json]:
    """Return the model with the largest dim whose parameter count ``fits``; empty if not even the smallest does."""
    unit = math.lcm(8, 4 * int(values.get("heads", 1)))  # rotary embeddings pair dims, some families half of them
    ratio = values["ffn_dim"] / values["dim"] if values.get("ffn_dim") else 0.0
    best: dict[str, Json] = {}
    for dim in range(unit, 4096 + 1, unit):
        ffn = {"ffn_dim": max(8, round(dim * ratio / 8) * 8)} if ratio else {}
        wider = {**values, "dim": dim, **ffn}
        if not fits(count(parse_model_config(wider).parameters())):
            break
        best = wider
    return best


def suggest(space: Space, trial: Suggests) -> list[str]:
    """Draw a value from every range and return them as ``section.key=value`` overrides."""
    overrides: list[str] = []
    for name, range_ in space.items():
        if isinstance(range_, UniformRange | LogUniformRange):
            overrides.append(f"{name}={trial.suggest_float(name, range_.low, range_.high, log=range_.kind == 'log')!r}")
        elif isinstance(range_, CategoricalRange):
            overrides.append(f"{name}={trial.suggest_categorical(name, [json.dumps(value) for value in range_.of])}")
        else:
            group = json.loads(trial.suggest_categorical(name, [json.dumps(group) for group in range_.of]))
            overrides += [f"{key}={json.dumps(value)}" for key, value in group.items()]
    return overrides


def baseline_params(run: RunConfig, space: Space) -> dict[str, Json]:
    """Return the trial parameters that leave ``run`` unchanged; empty if a range does not contain its value."""
    values = run.model_dump(mode="json")
    params: dict[str, Json] = {}
    for name, range_ in space.items():
        if isinstance(range_, Joint):
            same = [group for group in range_.of if all(_get(values, key) == value for key, value in group.items())]
            params |= {name: json.dumps(same[0])} if same else {}
        elif isinstance(range_, CategoricalRange):
            params |= {name: json.dumps(_get(values, name))} if _get(values, name) in range_.of else {}
        elif range_.low <= _get(values, name) <= range_.high:
            params[name] = _get(values, name)
    return params if len(params) == len(space) else {}


def apply_overrides(run: RunConfig, overrides: list[str]) -> RunConfig:
    """Return ``run`` with ``overrides`` and with as many steps as see the same number of training sequences."""
    changed = validate_config(files.apply_overrides(run.model_dump(mode="json"), overrides))
    before, after = (
        config.training.micro_batch_size * config.training.gradient_accumulation[0][1] for config in (run, changed)
    )
    steps = max(1, round(max_steps(run) * before / after))
    return validate_config(
        files.apply_overrides(changed.model_dump(mode="json"), [f"training.length.max_steps={steps}"])
    )


def max_steps(run: RunConfig) -> int:
    """Return the number of training steps of a run whose length is given in steps."""
    length = run.training.length
    assert isinstance(length, MaxSteps), "epochs are resolved before a search"
    return length.max_steps


def _get(values: Mapping[str, Json], key: str) -> Json:
    value: Json = values
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
