"""Load a RunConfig from a preset or a YAML file with ``section.key=value`` overrides; write it as YAML.

YAML is read safely: no tags, no aliases (a few lines of them can expand to gigabytes), no duplicate keys, files up to
1 MB. ``3e-4`` is a number, unlike in YAML 1.1.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from fabella.config.base import ConfigModel
from fabella.config.optimizer import OptimizerConfig
from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_config, family_names, is_external
from fabella.optim.registry import optimizer_module, optimizer_names
from fabella.run_config.run import RunConfig
from fabella.run_config.synonyms import setting_hint

MAX_FILE_BYTES = 1_000_000
"""Largest config file that is read."""
ITEM = re.compile(r"([a-z_.]+?)\.([0-9]+)\.(.+)")
"""Key in an item of a list: ``data.source.parts.0.weight``."""

# ---------------------------------------------------------------- presets


def preset_names() -> list[str]:
    """Return the names of the built-in presets, sorted."""
    directory = resources.files("fabella.run_config") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in directory.iterdir() if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """Return the YAML of a preset. Raises ConfigError for an unknown name."""
    if name not in preset_names():
        raise ConfigError(f"Unknown preset '{name}'.", hint=did_you_mean(name, preset_names()))
    return (resources.files("fabella.run_config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


@cache
def preset(name: str) -> RunConfig:
    """Return a built-in preset. Raises ConfigError for an unknown name."""
    return validate_config(parse_yaml(preset_text(name), where=f"preset {name}"))


# ---------------------------------------------------------------- reading


def load_config(config: str, overrides: Sequence[str] = (), replace: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the config of a preset or a YAML file; ``replace`` sets whole sections, then ``overrides`` apply.

    Raises ConfigError for an unknown preset, file, key or value, with the nearest known one.
    """
    path = Path(config)
    text = read_text(path) if path.suffix in {".yaml", ".yml"} else preset_text(config)
    values = parse_yaml(text, where=config)
    run = validate_config(with_sections(values, replace or {}))
    return validate_config(apply_overrides(run.model_dump(mode="json"), overrides)) if overrides else run


def read_text(path: Path) -> str:
    """Return the text of a config file. Raises ConfigError if it is missing, too large or not UTF-8."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"Config file {path} is larger than {MAX_FILE_BYTES:,} bytes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"Cannot read config file {path}: {reason}.", hint="Give the name of a preset or a YAML file."
        ) from None


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """Return the mapping of a YAML text. Raises ConfigError, which names the text ``where``."""
    try:
        values = copy.deepcopy(_load(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: invalid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{where}: a config must be a mapping of sections (model:, data:, training: …).")
    return values


@lru_cache(maxsize=16)
def _load(text: str) -> Any:
    """Return the value of a YAML text. Cached: a command reads the config of a run several times, 10 ms each.

    The parser is the one written in Python: LibYAML crashes on a text that is nested too deeply.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def to_yaml(run: RunConfig) -> str:
    """Return a config as YAML with all defaults; ``load_config`` gives an equal config from it."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses aliases and duplicate keys, and reads 3e-4 as a number."""

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
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key}'", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

# ---------------------------------------------------------------- overrides


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return ``values`` with the overrides applied. A new ``kind`` or ``family`` keeps the common settings.

    Raises ConfigError for a malformed override or an unknown key.
    """
    result = dict(values)
    family = _family_of(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"Cannot parse override '{text}'.", hint="Write section.key=value, as in optimizer.lr=3e-4."
            )
        item = ITEM.fullmatch(key)
        if (item[1] if item else key) not in known_keys(family):
            raise ConfigError(f"Unknown setting '{key}'.", hint=setting_hint(key, known_keys(family)))
        parsed = _value(value, text)
        if item:
            _set_in_item(result, item, parsed)
            continue
        _set(result, _path_of(key, parsed), parsed)
    return result


def value_of(key: str, overrides: Iterable[str]) -> Any:
    """Return the value that the last override of ``key`` sets; None without one. Raises ConfigError if malformed."""
    given = [text for text in overrides if text.partition("=")[0].strip() == key]
    return _value(given[-1].partition("=")[2], given[-1]) if given else None


def _set_in_item(values: dict[str, Any], item: "re.Match[str]", value: Any) -> None:
    """Set one key of one item of a list, as in ``data.source.parts.0.weight``. Raises ConfigError without that item."""
    *sections, name = item[1].split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[section]
    items, index = values.get(name), int(item[2])
    if not isinstance(items, list | tuple) or index >= len(items) or not isinstance(items[index], Mapping):
        count = len(items) if isinstance(items, list | tuple) else 0
        raise ConfigError(f"{item[1]} has no item {index}.", hint=f"It has {count}; the first one is {item[1]}.0.")
    changed = dict(items[index])
    inner = ITEM.fullmatch(item[3])
    if inner:
        _set_in_item(changed, inner, value)
    else:
        _set(changed, item[3].split("."), value)
    values[name] = [*items[:index], changed, *items[index + 1 :]]


def _path_of(key: str, value: Any) -> list[str]:
    """Return the path that an override sets: ``training.precision=bf16`` sets ``training.precision.kind``."""
    path = key.split(".")
    alternatives = sections_at(path) if isinstance(value, str) else []
    if key == "model":
        return [*path, "family"] if isinstance(value, str) else path
    return [*path, "kind"] if alternatives and all(map(_kind_of, alternatives)) else path


def with_sections(values: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with whole sections or settings replaced, by dotted key."""
    result = dict(values)
    for key, value in sections.items():
        _set(result, key.split("."), value)
    return result


def _value(text: str, override: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(
            f"Cannot parse the value of '{override}' as YAML.", hint="Quote it: 'section.key=\"text\"'."
        ) from None


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, key = path
    for name in sections:
        inner = values.get(name)
        values[name] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[name]
    if key in {"kind", "family"} and values.get(key) != value:
        common = _common_settings(sections, values.get(key), value)
        for name in [name for name in values if name not in common]:
            del values[name]
    if path[-2:-1] == ["length"] and key in {"max_steps", "epochs", "max_tokens"}:  # alternatives without a kind
        values.clear()
    values[key] = value


def _common_settings(path: list[str], before: Any, after: Any) -> set[str]:
    """Return the settings at ``path`` with the same meaning in two kinds or two model families."""
    if path == ["model"]:
        config = _config_of(after)
        return set(config.model_fields) if config else set()
    kinds = {_kind_of(section): section.model_fields for section in sections_at(path)}
    old, new = kinds.get(str(before), {}), kinds.get(str(after), {})
    return {name for name, field in new.items() if name not in old or old[name].annotation == field.annotation}


def sections_at(path: list[str]) -> list[type[ConfigModel]]:
    """Return the section classes allowed at ``path``: one, or one per kind."""
    sections: list[type[ConfigModel]] = [RunConfig]
    for name in path:
        fields = [section.model_fields[name] for section in sections if name in section.model_fields]
        sections = [inner for field in fields for inner in _sections_in(field.annotation)]
    return sections


def _kind_of(section: type[ConfigModel]) -> str:
    """Return the ``kind`` of a section class; empty if it has no alternatives."""
    return section.model_fields["kind"].default if "kind" in section.model_fields else ""


# ---------------------------------------------------------------- checking


def validate_config(values: Mapping[str, Any]) -> RunConfig:
    """Return the validated config. Raises ConfigError with up to five problems and the nearest known keys."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(" ".join(_problems(error, _family_of(values)))) from None


def _problems(error: ValidationError, family: str) -> list[str]:
    """Return one sentence per problem, at most five."""
    problems = _of_likeliest_alternatives(error.errors(include_url=False, include_context=False))
    return list(dict.fromkeys(_sentence(dict(item), family) for item in problems))[:5]


def _of_likeliest_alternatives(problems: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the problems without those of a section's alternatives that have more of them than another one.

    A section without ``kind``, as ``training.length``, has the problems of all of its alternatives.
    """
    counts = Counter(filter(None, (_alternative(item["loc"]) for item in problems)))
    fewest: dict[tuple[int | str, ...], int] = {}
    for alternative, count in counts.items():
        fewest[alternative[:-1]] = min(count, fewest.get(alternative[:-1], count))
    return [
        item
        for item in problems
        if not (alternative := _alternative(item["loc"])) or counts[alternative] == fewest[alternative[:-1]]
    ]


def _alternative(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the part of a location up to the class of an alternative; empty without one."""
    ends = [position for position, part in enumerate(location) if _is_class_name(part)]
    return location[: ends[0] + 1] if ends else ()


def _sentence(item: dict[str, Any], family: str) -> str:
    key = _dotted(item["loc"], family)
    if item["type"] == "extra_forbidden" and key in known_keys(family):
        return _wrong_kind(key)
    if item["type"] == "extra_forbidden":
        return f"Unknown setting '{key}'. {setting_hint(key, known_keys(family) | _keys_of_items(key))}"
    if item["type"] == "missing":
        return f"{key} is missing."
    if item["type"] == "union_tag_invalid":
        kinds = [_kind_of(section) for section in sections_at(key.split("."))]
        kind = str(item["input"]["kind"])
        return f"Unknown {key}.kind {kind[:60]!r}. {did_you_mean(kind, kinds)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "value_error":
        return f"{key}: {message}." if key else f"{message}."
    value = repr(item["input"])
    if item["type"] == "tuple_type" and isinstance(item["input"], str | int | float):
        return f"{key} = {value[:60]}: it is a list; write '{key}={_list_example(key, item['input'])}'."
    if item["type"] in {"model_attributes_type", "model_type", "dict_type"} and sections_at(key.split(".")):
        return f"{key} = {value if len(value) <= 60 else value[:57] + '…'}: {_settings_of(key)}"
    return f"{key} = {value if len(value) <= 60 else value[:57] + '…'}: {message}."


def _settings_of(key: str) -> str:
    """Return a sentence with the settings of a section, for a value in place of a section."""
    alternatives = sections_at(key.split("."))
    kinds = [kind for kind in map(_kind_of, alternatives) if kind]
    if kinds:
        return f"{key} is a section; set {key}.kind to one of {', '.join(kinds)}."
    names = sorted({f"{key}.{name}" for section in alternatives for name in section.model_fields})
    return f"{key} is a section; its settings are {', '.join(names)}."


def _list_example(key: str, value: object) -> str:
    """Return a list for a setting: its example, its default, or a list of the one value that was given."""
    path, _, name = key.rpartition(".")
    fields = [section.model_fields[name] for section in sections_at(path.split(".")) if name in section.model_fields]
    if examples := [str(example) for field in fields for example in field.examples or ()]:
        return examples[0]
    defaults = [field.default for field in fields if isinstance(field.default, tuple) and field.default]
    return json.dumps(defaults[0]) if defaults and not isinstance(defaults[0][0], str) else f"[{value}]"


def _wrong_kind(key: str) -> str:
    """Return the sentence for a known key that the chosen kind of its section does not have."""
    path, _, name = key.rpartition(".")
    kinds = [_kind_of(section) for section in sections_at(path.split(".")) if name in section.model_fields]
    if not all(kinds):
        return f"{key} cannot be combined with the other settings of {path}. Remove one of them."
    return f"{key} is a setting of {path}.kind={' or '.join(kinds)} only. Remove it, or set that kind as well."


def _dotted(location: tuple[int | str, ...], family: str) -> str:
    """Return the dotted key: ``('optimizer', 'adamw', 'lrr')`` → ``optimizer.lrr``, without the tags of unions."""
    known = known_keys(family)
    key = ""
    for position, part in enumerate(location):
        longer = f"{key}.{part}" if key else str(part)
        if longer in known or (position == len(location) - 1 and not _is_class_name(part)):
            key = longer
    return key


def _is_class_name(part: int | str) -> bool:
    """Return whether a part of a location is the name of a section's class, as for unions without a kind."""
    return isinstance(part, str) and part[:1].isupper()


@cache
def known_keys(family: str = "") -> frozenset[str]:
    """Return every dotted key of a config; keys under ``model`` are those of the family."""
    keys = set(_keys_of(RunConfig, ""))
    if config := _config_of(family):
        keys |= set(_keys_of(config, "model."))
    return frozenset(keys)


def _keys_of_items(key: str) -> set[str]:
    """Return the keys next to ``key`` if it is one of an item of a list, such as a phase of a schedule; else none."""
    *path, name = key.split(".")[:-1] or [""]
    fields = [section.model_fields[name] for section in sections_at(path) if name in section.model_fields]
    items = [each for field in fields for each in _sections_in(field.annotation, of_lists=True)]
    return {f"{key.rpartition('.')[0]}.{inner}" for item in items for inner in item.model_fields}


def _family_of(values: Mapping[str, Any]) -> str:
    """Return ``model.family`` of unchecked values; empty if there is none."""
    model = values.get("model")
    family = model.get("family") if isinstance(model, Mapping) else ""
    return family if isinstance(family, str) else ""


def _config_of(family: object) -> type[ModelConfig] | None:
    """Return the config class of a family; None for an unknown one. Raises ConfigError if its file cannot be loaded."""
    known = isinstance(family, str) and (is_external(family) or family in family_names())
    return family_config(str(family)) if known else None


def _keys_of(section: type[ConfigModel], prefix: str) -> Iterable[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_in(field.annotation):
            # A source may contain sources; one level is enough to name every key.
            if inner is not ModelConfig and prefix.count(".") < 4:
                yield from _keys_of(inner, f"{prefix}{name}.")


def _sections_in(annotation: Any, *, of_lists: bool = False) -> list[type[ConfigModel]]:
    """Return the section classes in the type of a field: the class itself, or the members of its union.

    ``of_lists``: those of the items of a list as well.
    """
    if annotation is OptimizerConfig:
        return [optimizer_module(name).Config for name in optimizer_names()]
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _sections_in(get_args(annotation)[0], of_lists=of_lists)
    if get_origin(annotation) in {tuple, list} and not of_lists:
        return []
    return [section for argument in get_args(annotation) for section in _sections_in(argument, of_lists=of_lists)]
