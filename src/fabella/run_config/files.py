"""From a preset's name, a YAML file and overrides ``section.key=value`` to a checked ``Run``, and back to YAML.

YAML is read safely: no tags, no aliases (a few lines of them can stand for gigabytes), no duplicate keys,
files up to 1 MB. ``3e-4`` is a number here, as everywhere but in YAML 1.1.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from fabella.config.base import ConfigModel
from fabella.config.optimizer import OptimizerConfig
from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_module, family_names
from fabella.optim.registry import optimizer_module, optimizer_names
from fabella.run_config.run import RunConfig

LARGEST_FILE_BYTES = 1_000_000

# ---------------------------------------------------------------- presets


def preset_names() -> list[str]:
    """Names of the presets that ship with Fabella, smallest families first as their files are named."""
    folder = resources.files("fabella.run_config") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset. Raises ConfigError for a name that is none."""
    if name not in preset_names():
        raise ConfigError(f"There is no preset '{name}'.", hint=did_you_mean(name, preset_names()))
    return (resources.files("fabella.run_config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


@cache
def preset(name: str) -> RunConfig:
    """A preset as it ships. Raises ConfigError for a name that is none."""
    return validate_config(parse_yaml(preset_text(name), where=f"preset {name}"))


# ---------------------------------------------------------------- reading


def load_config(config: str, overrides: Sequence[str] = (), replace: Mapping[str, Any] | None = None) -> RunConfig:
    """A run from a preset's name or a YAML file's path; ``replace`` sets whole sections, then ``overrides`` apply.

    Raises ConfigError: unknown preset, file, key or value, each with the nearest known one.
    """
    path = Path(config)
    text = read_text(path) if path.suffix in {".yaml", ".yml"} else preset_text(config)
    values = parse_yaml(text, where=config)
    run = validate_config(with_sections(values, replace or {}))
    return validate_config(apply_overrides(run.model_dump(mode="json"), overrides)) if overrides else run


def read_text(path: Path) -> str:
    """Text of a config file. Raises ConfigError where it is missing, too large or no UTF-8."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {LARGEST_FILE_BYTES:,} bytes, too large for a config.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"Config file {path} cannot be read: {reason}.", hint="Give a preset's name or a YAML file."
        ) from None


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """A mapping from YAML text. ``where`` names the text in errors (ConfigError)."""
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: no valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{where}: a config is a mapping of sections (model:, data:, training: …).")
    return values


def to_yaml(run: RunConfig) -> str:
    """The run as YAML, every default written out; ``load_run`` gives an equal run from it."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases and duplicate keys, and with numbers such as 3e-4."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

# ---------------------------------------------------------------- overrides


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``values`` with each ``section.key=value`` set. A new ``kind`` or ``family`` keeps what both have.

    Raises ConfigError for what is no assignment, or names a key that no section has.
    """
    result = dict(values)
    family = values.get("model", {}).get("family", "") if isinstance(values.get("model"), Mapping) else ""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{text}' is no override.", hint="Write section.key=value, as in optimizer.lr=3e-4.")
        if key not in known_keys(family):
            raise ConfigError(f"There is no setting '{key}'.", hint=did_you_mean(key, known_keys(family)))
        _set(result, key.split("."), _value(value, text))
    return result


def with_sections(values: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with whole sections or settings replaced, by their dotted keys."""
    result = dict(values)
    for key, value in sections.items():
        _set(result, key.split("."), value)
    return result


def _value(text: str, override: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(
            f"The value of '{override}' is no YAML value.", hint="Quote it: 'section.key=\"text\"'."
        ) from None


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, key = path
    for name in sections:
        inner = values.get(name)
        values[name] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[name]
    if key in {"kind", "family"} and values.get(key) != value:
        kept = _kept(sections, values.get(key), value)
        for name in [name for name in values if name not in kept]:
            del values[name]
    if key in {"steps", "epochs"}:  # a length is one or the other
        values.clear()
    values[key] = value


def _kept(path: list[str], before: Any, after: Any) -> set[str]:
    """Settings at ``path`` that mean the same in the kind, or the model family, ``after`` as in ``before``."""
    if path == ["model"]:
        return set(family_module(after).Config.model_fields) if after in family_names() else set()
    kinds = {_kind_of(section): section.model_fields for section in _alternatives(path)}
    old, new = kinds.get(before, {}), kinds.get(after, {})
    return {name for name, field in new.items() if name not in old or old[name].annotation == field.annotation}


def _alternatives(path: list[str]) -> list[type[ConfigModel]]:
    """What may stand at ``path``: one section, or each kind of it."""
    sections: list[type[ConfigModel]] = [RunConfig]
    for name in path:
        fields = [section.model_fields[name] for section in sections if name in section.model_fields]
        sections = [inner for field in fields for inner in _sections_in(field.annotation)]
    return sections


def _kind_of(section: type[ConfigModel]) -> str:
    """The word that chooses this one of several kinds; empty for a section that is the only one."""
    return section.model_fields["kind"].default if "kind" in section.model_fields else ""


# ---------------------------------------------------------------- checking


def validate_config(values: Mapping[str, Any]) -> RunConfig:
    """A checked Run. Raises ConfigError with every problem, and the nearest key for an unknown one."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        model = values.get("model")
        family = str(model.get("family")) if isinstance(model, Mapping) else ""
        raise ConfigError(" ".join(_problems(error, family))) from None


def _problems(error: ValidationError, family: str) -> list[str]:
    """One sentence a problem; at most five, so that the first is read."""
    found = error.errors(include_url=False, include_context=False)
    return [_sentence(dict(item), family) for item in found[:5]]


def _sentence(item: dict[str, Any], family: str) -> str:
    key = _dotted(item["loc"], family)
    if item["type"] == "extra_forbidden" and key in known_keys(family):
        return _of_another_kind(key)
    if item["type"] == "extra_forbidden":
        return f"There is no setting '{key}'. {did_you_mean(key, known_keys(family))}"
    if item["type"] == "missing":
        return f"{key} is missing."
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "value_error":
        return f"{key}: {message}." if key else f"{message}."
    shown = repr(item["input"])
    return f"{key} = {shown if len(shown) <= 60 else shown[:57] + '…'}: {message}."


def _of_another_kind(key: str) -> str:
    """``key`` exists, but not beside what else its section holds."""
    path, _, name = key.rpartition(".")
    kinds = [_kind_of(section) for section in _alternatives(path.split(".")) if name in section.model_fields]
    if not all(kinds):
        return f"{key} cannot be set beside the other settings of {path}. Leave one of them out."
    return f"{key} is a setting of {path}.kind={' or '.join(kinds)} alone. Leave it out, or set that kind as well."


def _dotted(location: tuple[int | str, ...], family: str) -> str:
    """``('optimizer', 'adamw', 'lrr')`` → ``optimizer.lrr``: the tags of unions are no part of the key."""
    known = known_keys(family)
    key = ""
    for position, part in enumerate(location):
        longer = f"{key}.{part}" if key else str(part)
        if longer in known or position == len(location) - 1:
            key = longer
    return key


@cache
def known_keys(family: str = "") -> frozenset[str]:
    """Every dotted key of a run; those under ``model`` are the family's."""
    keys = set(_keys_of(RunConfig, ""))
    if family in family_names():
        keys |= set(_keys_of(family_module(family).Config, "model."))
    return frozenset(keys)


def _keys_of(section: type[ConfigModel], prefix: str) -> Iterable[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_in(field.annotation):
            # A source may hold sources; one level of that is enough to name every key.
            if inner is not ModelConfig and prefix.count(".") < 4:
                yield from _keys_of(inner, f"{prefix}{name}.")


def _sections_in(annotation: Any) -> list[type[ConfigModel]]:
    """The section classes in a field's type: itself, or the members of its union."""
    if annotation is OptimizerConfig:
        return [optimizer_module(name).Config for name in optimizer_names()]
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _sections_in(get_args(annotation)[0])
    if get_origin(annotation) in {tuple, list}:
        return []
    return [section for argument in get_args(annotation) for section in _sections_in(argument)]
