"""Find a family by the name of its file, in ``fabella.models`` or outside the package.

``model.family`` is one of

    llama               a family of the package
    ./gla_torch.py      a file; twins gla.py and gla_jax.py in the same directory are used as in the package
    my_package.gla      an importable module; its twins are my_package.gla_torch and my_package.gla_jax

A family outside the package inherits ``ModelConfig.family`` as it is, and its files import each other relatively
(``from .gla import Config``). Loading such a family runs its code.
"""

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, get_args

from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig

ENGINE_SUFFIXES = ("_torch", "_jax")


def family_names() -> list[str]:
    """Return the names of the package's families: its files that end in ``_torch`` or ``_jax``, without this suffix."""
    names = _package_modules()
    return sorted({_without_engine(name) for name in names if name.endswith(ENGINE_SUFFIXES)})


def is_external(family: str) -> bool:
    """Return whether ``family`` is a path or a dotted module rather than the name of a family of the package."""
    return _is_path(family) or "." in family


def parse_model_config(values: Any) -> ModelConfig:
    """Return the family's ``Config`` for a mapping with the key ``family``. Raises ConfigError for unknown families."""
    if isinstance(values, ModelConfig):
        return values
    if not isinstance(values, Mapping) or not isinstance(values.get("family"), str):
        raise ConfigError("model.family is missing.", hint=f"Choose from: {', '.join(family_names())}.")
    return family_config(values["family"]).model_validate(dict(values))


def family_config(family: str) -> type[ModelConfig]:
    """Return the class ``Config`` of a family. Raises ConfigError if the family or the class does not exist."""
    config = getattr(family_module(family), "Config", None)
    if not isinstance(config, type) or not issubclass(config, ModelConfig):
        raise ConfigError(f"model.family = {family!r} has no class Config that extends ModelConfig.")
    if is_external(family) and (only := config.model_fields["family"].annotation) is not str:
        raise ConfigError(
            f"model.family = {family!r}: the field 'family' of its class Config takes only {_literal(only)}, which is "
            "the name of another family.",
            hint=_family_field(family),
        )
    return config


def _family_field(family: str) -> str:
    return f'Write it with a default: family: str = "{_without_engine(family_label(family))}".'


def _literal(annotation: Any) -> str:
    return " or ".join(repr(value) for value in get_args(annotation)) or str(annotation)


def tiny_config(family: str) -> ModelConfig:
    """Return the family's small config. Raises ConfigError if the family has none."""
    tiny = getattr(family_config(family), "tiny", None)
    if tiny is None:
        raise ConfigError(
            f"Family '{family}' has no small config.",
            hint="Give its Config a classmethod tiny() that returns a config with every feature at a small size.",
        )
    try:
        config: ModelConfig = tiny()
    except Exception as error:
        if not is_external(family):
            raise
        required = family_config(family).model_fields["family"].is_required()
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"Config.tiny() of model.family = {family!r} fails: {type(error).__name__}: {problem}",
            hint=f"The field 'family' has no default. {_family_field(family)}" if required else "Correct this method.",
        ) from error
    return config.model_copy(update={"family": family})


def family_label(family: str) -> str:
    """Return a short name to show: the file name without ``.py`` for a path, else ``family`` itself."""
    return Path(family).stem if _is_path(family) else family


def family_module(family: str) -> Any:
    """Return the module with ``Config``: ``NAME``, or ``NAME_torch`` if the family is a single file."""
    base = _base_module(family)
    for suffix in ("", *ENGINE_SUFFIXES):
        if _exists(base + suffix):
            return _load(base + suffix, family)
    raise _unknown(family)


def network_module(config: ModelConfig, engine: str) -> Any:
    """Return the module with the family's ``Model`` for ``engine``. Raises ConfigError if there is none."""
    family = config.family
    base = _base_module(family)
    if not _exists(f"{base}_{engine}"):
        if not any(_exists(base + suffix) for suffix in ("", *ENGINE_SUFFIXES)):
            raise _unknown(family)
        file = f"{base.rsplit('.', 1)[-1]}_{engine}.py"
        other = next((suffix[1:] for suffix in ENGINE_SUFFIXES if _exists(base + suffix)), "torch")
        raise ConfigError(
            f"model.family = {family!r} is not implemented for engine={engine} ({file}).", hint=f"Use engine={other}."
        )
    module = _load(f"{base}_{engine}", family)
    if not hasattr(module, "Model"):
        raise ConfigError(f"model.family = {family!r} has no class Model for engine {engine}.")
    return module


def family_source(family: str) -> list[Path]:
    """Return the files to keep with a run: those of a family outside the package; none for one of the package."""
    if not is_external(family):
        return []
    base = _base_module(family)
    specs = [importlib.util.find_spec(base + suffix) for suffix in ("", *ENGINE_SUFFIXES) if _exists(base + suffix)]
    return [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]


def kept_family(family: str, directory: str) -> str:
    """Return ``model.family`` for a copy of ``family_source(family)`` in ``directory``, a path relative to the run."""
    sources = family_source(family)
    if not sources:
        return family
    source = next((path for path in sources if path.stem.endswith("_torch")), sources[-1])
    return f"./{directory}/{source.name}"


def resolve_family(family: str, base: Path) -> str:
    """Return ``family`` with a relative path made absolute, taken relative to ``base`` (a run or the current one)."""
    return str((base / family).resolve()) if _is_path(family) else family


def _is_path(family: str) -> bool:
    return family.endswith(".py") or "/" in family or "\\" in family


def _package_modules() -> set[str]:
    package = importlib.import_module("fabella.models")
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def _without_engine(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in ENGINE_SUFFIXES if name.endswith(suffix)), name)


def _base_module(family: str) -> str:
    """Return the name of the family's module without the engine."""
    if _is_path(family):
        path = _file(family)
        if path is None:
            raise ConfigError(f"Cannot find the family file {family!r}.", hint="Give the path of a file NAME_torch.py.")
        return f"{_directory_package(path.parent)}.{_without_engine(path.stem)}"
    if "." in family:
        return _without_engine(family)
    if family not in family_names():
        raise _unknown(family)
    return f"fabella.models.{family}"


def _file(family: str) -> Path | None:
    """Return the absolute path of a family file; None if there is no such file."""
    try:
        path = Path(family).resolve()
        return path if path.suffix == ".py" and path.is_file() else None
    except (OSError, ValueError):  # too long, or with a null byte
        return None


class _SourceLoader(SourceFileLoader):
    """Loader that always compiles the source: a ``.pyc`` next to it may contain other code."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _directory_package(directory: Path) -> str:
    """Return the name of a package whose modules are the files of ``directory``, so that twins import each other."""
    entry = str(directory / "*.py")  # a name of its own: the directory itself may be on sys.path with other loaders
    if entry not in sys.path_importer_cache:
        sys.path_importer_cache[entry] = FileFinder(str(directory), (_SourceLoader, [".py"]))
    name = f"fabella_family_{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [entry]
        package.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        package.__spec__.submodule_search_locations = package.__path__
        sys.modules[name] = package
    return name


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # a parent package is missing, or the name is malformed
        return False


def _load(module: str, family: str) -> Any:
    if not is_external(family):
        return importlib.import_module(module)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"Cannot load model.family = {family!r}: {type(error).__name__}: {error}") from error


def _unknown(family: str) -> ConfigError:
    return ConfigError(f"Unknown model.family {family!r}.", hint=did_you_mean(family, family_names()))
