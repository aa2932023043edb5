"""The house as files and syntax trees, for the tests that read it."""

import ast
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parents[1]
PACKAGE = HOUSE / "src" / "fabella"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((HOUSE / "tests").rglob("*.py"))
BENCHMARKS = sorted((HOUSE / "benchmarks").rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8"), filename=str(file)) for file in FILES + TESTS + BENCHMARKS}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def place(file: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if isinstance(node, ast.expr | ast.stmt) else ""
    return f"{file.relative_to(HOUSE)}{line}"


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def imported(node: ast.AST) -> list[str]:
    """Full names of the modules that one import statement may load; none for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        callee = ast.unparse(node.func)
        if callee in {"importlib.import_module", "import_module", "__import__"}:
            return [str(node.args[0].value)]
    return []


def report(broken: list[str]) -> None:
    assert not broken, "\n".join(["", *broken])


def is_command(file: Path, function: Function) -> bool:
    """A command's parameters are the options of the command line, which nobody passes by position."""
    return file.parent == PACKAGE / "cli" and (function.name == "command" or bool(function.decorator_list))
