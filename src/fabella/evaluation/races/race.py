"""Definition of a race: its clock, its machine, its score and the recipe that Fabella enters.

A race is one YAML file, in this folder or anywhere else. ``recipe`` is the config of a run; its text and its length are
those of each entry.
"""

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fabella.config.base import ConfigModel, FileName, Positive
from fabella.config.scoring import validation_rule
from fabella.errors import ConfigError, UsageError, did_you_mean
from fabella.run_config.files import parse_yaml, read_text, validate_config
from fabella.run_config.run import RunConfig

SUFFIXES = (".yaml", ".yml")


class RaceTargets(ConfigModel):
    """Bits per byte to reach; they say how good a score is and decide nothing."""

    good: float = Field(gt=0.0, description="bits per byte of a good entry")
    goal: float = Field(gt=0.0, description="bits per byte that would be new for this budget")


class RaceArtifact(ConfigModel):
    """The one file, weights and tokenizer, that an entry is scored from."""

    format: Literal["gguf"] = "gguf"
    precision: Literal["float32", "float16", "bfloat16", "q8_0"] = "q8_0"
    max_bytes: Positive = Field(description="largest size of the file in bytes")


class Race(ConfigModel):
    """Rules of a race, and the recipe that Fabella enters."""

    name: FileName
    description: str
    minutes: float = Field(gt=0.0, le=10_080.0, description="minutes on the clock")
    device: Literal["cpu", "gpu"]
    threads: int = Field(default=0, ge=0, description="threads that training uses at most; 0: any number")
    rule: str = Field(pattern=r"^line-[1-9][0-9]*$", description="scoring rule")
    targets: RaceTargets
    artifact: RaceArtifact | None = Field(default=None, description="file that is scored; none: the last checkpoint")
    tuned_on: str = Field(description="text that the settings of the recipe were chosen on")
    recipe: RunConfig

    @property
    def length(self) -> int:
        """Tokens of a sequence of the scoring rule."""
        return int(self.rule.partition("-")[2])


def race_names() -> list[str]:
    """Return the names of the built-in races, sorted."""
    items = resources.files("fabella.evaluation.races").iterdir()
    return sorted(item.name.removesuffix(".yaml") for item in items if item.name.endswith(".yaml"))


def load_race(name: str) -> Race:
    """Return a built-in race, or that of a YAML file. Raises UsageError or ConfigError for an invalid one."""
    if name.endswith(SUFFIXES):
        return parse_race(Path(name).stem, read_text(Path(name)), where=name)
    if name not in race_names():
        raise UsageError(f"Unknown race '{name}'.", hint=did_you_mean(name, race_names()))
    text = (resources.files("fabella.evaluation.races") / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_race(name, text, where=f"race {name}")


def parse_race(name: str, text: str, *, where: str) -> Race:
    """Return the race of a YAML text. Raises ConfigError, which names the text ``where``."""
    values: dict[str, Any] = parse_yaml(text, where=where)
    recipe = values.get("recipe")
    if not isinstance(recipe, dict):
        raise ConfigError(f"{where}: recipe is missing.", hint="It is the config of a run (model:, data: …).")
    try:
        race = Race.model_validate({**values, "name": name, "recipe": validate_config(recipe)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {key}: {first['msg']}.") from None
    require_rule_of(race, race.recipe)
    return race


def require_rule_of(race: Race, run: RunConfig) -> None:
    """Raise UsageError for a config that would not be scored by the rule of the race."""
    rule = validation_rule(run.data.sequences).name
    if rule != race.rule:
        length = race.length
        raise UsageError(
            f"The race {race.name} is scored by {race.rule}; the sequences of this recipe would be scored by {rule}.",
            hint=f"Add 'data.sequences={{kind: packed, length: {length}, stride: {length}, reshuffle: true}}'.",
        )
