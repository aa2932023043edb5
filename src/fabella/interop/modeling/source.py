"""One self-contained modelling file for a family without a class in Hugging Face's library.

The file is not written by hand: it consists of the definitions that the family's ``NAME_torch.py`` needs, from this
file, from ``fabella.models.nn`` and from other files of its directory, without what only training needs, and of a thin
class for the library. It needs torch and transformers only, and computes what the run computes, because it is the same
code.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fabella.errors import UsageError
from fabella.interop.modeling.training_code import without_training_code
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_label, network_module

TEMPLATE = Path(__file__).with_name("template.txt")
OWN = "fabella."


@dataclass(slots=True)
class _Module:
    """Definitions and imports of one source file by name."""

    name: str
    definitions: dict[str, ast.stmt] = field(default_factory=dict[str, ast.stmt])
    imports: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Name → (module, name in it); an empty second name imports the module itself."""


def modeling_source(config: ModelConfig) -> str:
    """Return the modelling file of a family. Raises UsageError if its code cannot be put into one file."""
    module = network_module(config, "torch")
    collector = _Collector(family_label(config.family))
    collector.add(module.__name__, "Model")
    body = "\n\n\n".join(ast.unparse(node) for node in collector.ordered)
    imports = "\n".join(sorted(collector.import_lines()))
    template = TEMPLATE.read_text(encoding="utf-8")
    return template.replace("# IMPORTS", imports).replace("# NETWORK", body).replace("FAMILY", collector.family)


def config_values(config: ModelConfig) -> dict[str, Any]:
    """Return fields and properties of a config: what the network reads from it."""
    names = [name for kind in type(config).__mro__ for name, value in vars(kind).items() if isinstance(value, property)]
    properties = {name: getattr(config, name) for name in names if not name.startswith(("_", "model_"))}
    values = {**config.model_dump(mode="json"), "family": family_label(config.family), **properties}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | bool | list | dict)}


class _Collector:
    """Depth-first search over the names that a definition uses; ``ordered`` defines each before its first use."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.ordered: list[ast.stmt] = []
        self._modules: dict[str, _Module] = {}
        self._owners: dict[str, str] = {}
        self._externals: dict[str, tuple[str, str]] = {}

    def add(self, module_name: str, name: str) -> None:
        """Add a definition and everything that it uses."""
        module = self._module(module_name)
        if name in module.imports:
            self._add_import(module, name)
            return
        if name not in module.definitions:
            return
        if self._owners.setdefault(name, module_name) != module_name:
            raise UsageError(
                f"Cannot export family '{self.family}': {name} is defined in {module_name} and {self._owners[name]}.",
                hint="Rename one of them, or use --to safetensors.",
            )
        node = module.definitions.pop(name)  # popped first: a definition may use itself
        if _is_config(node):
            return
        bare = without_training_code(node)
        for used in _used_names(bare):
            self.add(module_name, used)
        self.ordered.append(bare)

    def import_lines(self) -> Iterator[str]:
        """Yield the import statements of other libraries."""
        for name, (module, original) in self._externals.items():
            if not original:
                yield f"import {module}" if name == module.partition(".")[0] else f"import {module} as {name}"
            else:
                yield f"from {module} import {original}" + ("" if original == name else f" as {name}")

    def _add_import(self, module: _Module, name: str) -> None:
        source, original = module.imports[name]
        if source.startswith(".") or source.startswith(OWN) or _is_neighbor(module.name, source):
            target = importlib.util.resolve_name(source, module.name.rpartition(".")[0])
            if original != name:
                raise UsageError(
                    f"Cannot export family '{self.family}': {module.name} imports {original} as {name}.",
                    hint="Import it under its own name, or use --to safetensors.",
                )
            if not original or target == OWN.rstrip("."):
                return
            self.add(target, original)
        else:
            self._externals[name] = (source, original)

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            spec = importlib.util.find_spec(name)
            assert spec is not None, "the network has imported this module"
            assert spec.origin is not None
            self._modules[name] = _parsed(name, Path(spec.origin))
        return self._modules[name]


def _is_neighbor(module: str, other: str) -> bool:
    return other.partition(".")[0] == module.partition(".")[0]


def _parsed(name: str, path: Path) -> _Module:
    module = _Module(name)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                module.definitions[node.name] = node
            case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
                module.definitions[target] = node
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                for target, value in zip(targets, values, strict=True):
                    module.definitions[ast.unparse(target)] = ast.Assign([target], value)
            case ast.ImportFrom():
                source = "." * node.level + (node.module or "")
                module.imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
            case ast.Import():
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    module.imports[bound] = (alias.name, "")
            case _:
                pass
    return module


def _is_config(node: ast.stmt) -> bool:
    """Return whether a definition is the family's config, which the export replaces by its values."""
    return isinstance(node, ast.ClassDef) and any("ModelConfig" in ast.unparse(base) for base in node.bases)


def _used_names(node: ast.AST) -> list[str]:
    return list(dict.fromkeys(item.id for item in ast.walk(node) if isinstance(item, ast.Name)))
