"""What a search may choose from: settings by their dotted names, each with its range."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from fabella.config.base import ConfigModel
from fabella.errors import ConfigError, did_you_mean
from fabella.models.parameters import count
from fabella.models.registry import parse_model_config
from fabella.run_config.files import apply_overrides, known_keys, parse_yaml, read_text, validate_config
from fabella.run_config.run import RunConfig

Json = Any


class Suggests(Protocol):
    """What is needed of a trial of Optuna's."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between these."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of these."""
        ...


class _Between(ConfigModel):
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> "_Between":
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
        return self


class Linear(_Between):
    """Any number from ``low`` to ``high``, all alike."""

    kind: Literal["linear"] = "linear"


class LogUniformRange(_Between):
    """Any number from ``low`` to ``high``, every factor alike: for learning rates."""

    kind: Literal["log"] = "log"
    low: float = Field(gt=0.0)


class UniformRange(ConfigModel):
    """One of these values."""

    kind: Literal["choice"] = "choice"
    of: Annotated[tuple[Json, ...], Field(strict=False, min_length=2)]


class Joint(ConfigModel):
    """One of these groups of settings: its name is free, for it names no setting."""

    kind: Literal["together"] = "together"
    of: Annotated[tuple[dict[str, Json], ...], Field(strict=False, min_length=2)]


Range = Annotated[Linear | LogUniformRange | UniformRange | Joint, Field(discriminator="kind")]
Space = Mapping[str, Linear | LogUniformRange | UniformRange | Joint]
_SPACE: TypeAdapter[dict[str, Linear | LogUniformRange | UniformRange | Joint]] = TypeAdapter(dict[str, Range])


def read_space(path: Path, run: RunConfig) -> Space:
    """A space from a YAML file: ``optimizer.lr: {kind: log, low: 1e-4, high: 1e-2}``, a line a setting.

    Raises ConfigError for what is no range, or names a setting that this run has not.
    """
    try:
        space = _SPACE.validate_python(parse_yaml(read_text(path), where=str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise ConfigError(
            f"{path}, {where}: {first['msg']}.", hint="Write NAME: {kind: log, low: 1e-4, high: 1e-2}, or kind: choice."
        ) from None
    known = known_keys(run.model.family)
    for name, range_ in space.items():
        for key in [name] if not isinstance(range_, Joint) else [key for one in range_.of for key in one]:
            if key not in known:
                raise ConfigError(f"{path}: there is no setting '{key}'.", hint=did_you_mean(key, known))
    return space


def default_space(run: RunConfig, most_parameters: int = 0) -> Space:
    """What is worth trying for any run: rate, decay, second beta, warm-up, batch; and shapes of the model where
    ``most_parameters`` says how large it may be.
    """
    optimizer = run.optimizer
    space: dict[str, Linear | LogUniformRange | UniformRange | Joint] = {
        "optimizer.lr": LogUniformRange(low=optimizer.lr / 5, high=optimizer.lr * 5),
        "optimizer.betas": UniformRange(of=tuple([optimizer.betas[0], beta] for beta in (0.95, 0.98, 0.99, 0.999))),
        "training.micro_batch_size": UniformRange(of=tuple(sorted({max(1, run.training.micro_batch_size // 2),
                                                        run.training.micro_batch_size, run.training.micro_batch_size * 2}))),
    }  # fmt: skip
    if hasattr(optimizer, "weight_decay"):
        space["optimizer.weight_decay"] = Linear(low=0.0, high=0.3)
    if warm_ups := _warm_ups(run):
        space["warm-up"] = Joint(of=warm_ups)
    if most_parameters:
        space["shape"] = Joint(of=shapes(run, most_parameters))
    return space


def _warm_ups(run: RunConfig) -> tuple[dict[str, Json], ...]:
    """The run's schedule with a shorter and a longer warm-up, where it is one of two parts that begins with one."""
    schedule = run.optimizer.schedule
    if len(schedule) != 2 or (schedule[0].start, schedule[0].end) != (0.0, 1.0):
        return ()
    first, second = (segment.model_dump(mode="json") for segment in schedule)
    return tuple(
        {"optimizer.schedule": [first | {"length": f"{share}%"}, second | {"length": f"{100 - share}%"}]}
        for share in (1, 2, 5, 10, 20)
    )


def shapes(run: RunConfig, most_parameters: int) -> tuple[dict[str, Json], ...]:
    """Deeper and wider models with at most so many parameters, each as wide as its depth allows.

    Dim and feed-forward keep their proportion. Raises ConfigError where fewer than two fit.
    """
    values = run.model.model_dump(mode="json")
    found: list[dict[str, Json]] = []
    for layers in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24):
        widest = widest_model(values | {"layers": layers}, lambda size: size <= most_parameters)
        if widest and _parameters(run, widest) >= most_parameters * 0.7:
            keys = [key for key in widest if widest[key] != values.get(key)] or ["layers"]
            found.append({f"model.{key}": widest[key] for key in sorted({*keys, "layers", "dim"})})
    if len(found) < 2:
        raise ConfigError(
            f"With at most {most_parameters:,} parameters there are not two shapes of {run.model.family}.",
            hint=f"This run's model has {count(run.model.parameters()):,}; allow about as many.",
        )
    return tuple(found)


def widest_model(values: Mapping[str, Json], fits: Callable[[int], bool]) -> dict[str, Json]:
    """The model with the largest dim whose number of parameters ``fits``; empty where even the smallest does not."""
    unit = math.lcm(8, 4 * int(values.get("heads", 1)))  # dims turn in pairs, of some families half of them
    proportion = values["hidden"] / values["dim"] if values.get("hidden") else 0.0
    best: dict[str, Json] = {}
    for dim in range(unit, 4096 + 1, unit):
        hidden = {"ffn_dim": max(8, round(dim * proportion / 8) * 8)} if proportion else {}
        wider = {**values, "dim": dim, **hidden}
        if not fits(count(parse_model_config(wider).parameters())):
            break
        best = wider
    return best


def _parameters(run: RunConfig, values: Mapping[str, Json]) -> int:
    return count(parse_model_config(values).parameters())


def suggest(run: RunConfig, space: Space, trial: Suggests) -> list[str]:
    """What a trial tries, as overrides of ``run``; the number of windows learned from stays the same."""
    overrides: list[str] = []
    for name, range_ in space.items():
        if isinstance(range_, Linear | LogUniformRange):
            overrides.append(f"{name}={trial.suggest_float(name, range_.low, range_.high, log=range_.kind == 'log')!r}")
        elif isinstance(range_, UniformRange):
            overrides.append(f"{name}={trial.suggest_categorical(name, [json.dumps(one) for one in range_.of])}")
        else:
            picked = json.loads(trial.suggest_categorical(name, [json.dumps(one) for one in range_.of]))
            overrides += [f"{key}={json.dumps(value)}" for key, value in picked.items()]
    return overrides


def baseline_params(run: RunConfig, space: Space) -> dict[str, Json]:
    """The trial that changes nothing, as far as the space holds it: what every other one has to beat."""
    values = run.model_dump(mode="json")
    found: dict[str, Json] = {}
    for name, range_ in space.items():
        if isinstance(range_, Joint):
            same = [one for one in range_.of if all(_at(values, key) == value for key, value in one.items())]
            found |= {name: json.dumps(same[0])} if same else {}
        elif isinstance(range_, UniformRange):
            found |= {name: json.dumps(_at(values, name))} if _at(values, name) in range_.of else {}
        elif range_.low <= _at(values, name) <= range_.high:
            found[name] = _at(values, name)
    return found if len(found) == len(space) else {}


def tried(run: RunConfig, overrides: list[str]) -> RunConfig:
    """``run`` with these settings, and as many steps as learn from as many windows as it would."""
    changed = validate_config(apply_overrides(run.model_dump(mode="json"), overrides))
    before, now = (
        each.training.micro_batch_size * each.training.gradient_accumulation[0][1] for each in (run, changed)
    )
    steps = max(1, round(getattr(run.training.length, "steps") * before / now))  # noqa: B009 - resolved by the study
    return validate_config(apply_overrides(changed.model_dump(mode="json"), [f"training.length.max_steps={steps}"]))


def _at(values: Mapping[str, Json], name: str) -> Json:
    found: Json = values
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
