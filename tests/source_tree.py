"""Files, syntax trees and imports of the repository, for the tests that check its structure."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "fabella"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
BENCHMARKS = sorted((REPOSITORY / "benchmarks").rglob("*.py"))


class SyntaxTrees(Mapping[Path, ast.Module]):
    """Syntax trees of files, each parsed at its first use: all workers collect all tests, and few tests need one."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = dict.fromkeys(files)
        self._trees: dict[Path, ast.Module] = {}

    def __getitem__(self, file: Path) -> ast.Module:
        if file not in self._trees and file in self._files:
            self._trees[file] = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        return self._trees[file]

    def __iter__(self) -> Iterator[Path]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


TREES = SyntaxTrees([*FILES, *TESTS, *BENCHMARKS])

Function = ast.FunctionDef | ast.AsyncFunctionDef


def location(file: Path, node: ast.AST | None = None) -> str:
    """Return ``path:line`` relative to the repository."""
    line = f":{node.lineno}" if isinstance(node, ast.expr | ast.stmt) else ""
    return f"{file.relative_to(REPOSITORY)}{line}"


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method of a syntax tree."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def imported(node: ast.AST) -> list[str]:
    """Return the full names of the modules that an import statement or ``import_module("…")`` may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        callee = ast.unparse(node.func)
        if callee in {"importlib.import_module", "import_module", "__import__"}:
            return [str(node.args[0].value)]
    return []


def module_name(file: Path) -> str:
    """Return the dotted name of a module of the package."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def import_graph() -> dict[Path, frozenset[Path]]:
    """Map each file of the package to the package's files that it imports, ``import_module("…")`` included."""
    by_name = {module_name(file): file for file in FILES}
    graph: dict[Path, frozenset[Path]] = {}
    for file in FILES:
        names = {name for node in ast.walk(TREES[file]) for name in imported(node)}
        graph[file] = frozenset(by_name[name] for name in names if name in by_name and by_name[name] != file)
    return graph


def report(offenses: list[str]) -> None:
    """Fail with one offense a line unless there is none."""
    assert not offenses, "\n".join(["", *offenses])


def is_command(file: Path, function: Function) -> bool:
    """Return whether a function is a command; its parameters are command-line options, never passed by position."""
    return file.parent == PACKAGE / "cli" and (function.name == "command" or bool(function.decorator_list))
