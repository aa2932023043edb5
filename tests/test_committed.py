"""Tests of the committed files: no unsafe loading, docstrings everywhere, no absolute paths of a machine."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabella.cli.main import command_files
from tests.source_tree import (
    BENCHMARKS,
    FILES,
    PACKAGE,
    REPOSITORY,
    TREES,
    Function,
    functions,
    imported,
    is_command,
    location,
    report,
)

CALLED_BY_A_LIBRARY = {
    *("forward", "backward"),
    *("list_commands", "get_command", "resolve_command", "format_help"),
    *("connection_made", "data_received", "on_response_complete", "connection_lost"),
}
"""Methods that torch, typer or uvicorn call and document."""

# ---------------------------------------------------------------- safety


def unsafe(node: ast.AST) -> str:
    """Return why a call or import could execute code from a file that it reads; empty if it could not."""
    if any(
        name.split(".")[0] in {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
        for name in imported(node)
    ):
        return "reads pickles"
    if not isinstance(node, ast.Call):
        return ""
    callee = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if callee in {"torch.load", "torch.save"}:
        return "reads or writes pickles; use safetensors"
    if callee in {"np.load", "numpy.load"} and keywords.get("allow_pickle") != "False":
        return "must say allow_pickle=False"
    if callee in {"yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system"}:
        return "executes what it reads"
    if callee == "yaml.load" and "Loader" not in keywords:
        return "must name a safe Loader"
    forbidden = {("weights_only", "False"), ("allow_pickle", "True"), ("trust_remote_code", "True"), ("shell", "True")}
    return ", ".join(f"{name}={value}" for name, value in sorted(forbidden & set(keywords.items())))


@pytest.mark.fault("E2", cases=1)
def test_reading_a_file_never_executes_code() -> None:
    report([f"{location(f, n)} {unsafe(n)}" for f in FILES + BENCHMARKS for n in ast.walk(TREES[f]) if unsafe(n)])


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import pickle", "reads pickles"),
        ("from dill import loads", "reads pickles"),
        ("torch.load(path)", "reads or writes pickles; use safetensors"),
        ("np.load(path)", "must say allow_pickle=False"),
        ("np.load(path, allow_pickle=False)", ""),
        ("read(path, allow_pickle=True)", "allow_pickle=True"),
        ("load(path, weights_only=False)", "weights_only=False"),
        ("AutoTokenizer.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
        ("yaml.load(text)", "must name a safe Loader"),
    ],
)
def test_unsafe_calls_are_found(code: str, why: str) -> None:
    assert why in [unsafe(node) for node in ast.walk(ast.parse(code))]


# ---------------------------------------------------------------- words


def test_every_file_has_a_docstring() -> None:
    report([location(file) for file in FILES if TREES[file].body and not ast.get_docstring(TREES[file])])


def test_every_public_function_has_a_docstring() -> None:
    """A method may leave it to the protocol that it implements: a method of the same name in another class."""
    described = {
        function.name
        for file in FILES
        for owner in ast.walk(TREES[file])
        if isinstance(owner, ast.ClassDef)
        for function in functions(owner)
        if ast.get_docstring(function)
    }
    report(
        [
            f"{location(file, function)} {function.name}()"
            for file in FILES
            for owner, function in public_functions(TREES[file])
            if not ast.get_docstring(function)
            if not (owner and owner.bases and function.name in described | CALLED_BY_A_LIBRARY)
            if not is_command(file, function)
        ]
    )


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    """Yield the public functions of a module and the public methods of its public classes, each with its class."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner, body in [(None, tree.body), *((c, c.body) for c in classes)]:
        for node in body:
            is_overload = isinstance(node, Function) and any("overload" in ast.unparse(d) for d in node.decorator_list)
            if isinstance(node, Function) and not node.name.startswith("_") and not is_overload:
                yield owner, node


COMMANDS = sorted(command_files().values())


@pytest.mark.parametrize("file", COMMANDS, ids=[file.stem for file in COMMANDS])
def test_every_command_shows_examples(file: Path) -> None:
    text = ast.get_docstring(TREES[file]) or ""
    name = file.stem.replace("_", "-")
    assert "Examples:" in text, f"{location(file)} has no Examples"
    assert f"  fabella {name}" in text.split("Examples:")[1], f"{location(file)}: no example begins with fabella {name}"
    assert text.splitlines()[0].endswith("."), f"{location(file)}: the first line is the summary, a sentence"


def tree_in_contributing() -> dict[str, str]:
    """Name → purpose, from the tree of `src/fabella` that README.md prints."""
    block = re.search(
        r"```text\nsrc/fabella/\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert block, "CONTRIBUTING.md prints no tree of src/fabella/"
    lines = [line.strip().split(None, 1) for line in block[1].splitlines() if line.strip()]
    return {line[0]: line[1] for line in lines}


def test_contributing_shows_the_real_packages() -> None:
    packages = {f"{item.name}/" for item in PACKAGE.iterdir() if item.is_dir() and item.name != "__pycache__"}
    files = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(tree_in_contributing()) == packages | files


# ---------------------------------------------------------------- what is committed


def tracked() -> list[Path]:
    """Return every file that git tracks; without git, the source files and pages."""
    if (REPOSITORY / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout
        return [REPOSITORY / name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]
    return [*TREES, *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]


MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|work|root|tmp|opt|Users|mnt)/[A-Za-z0-9_.-]")


def test_no_absolute_path_of_a_machine_is_committed() -> None:
    offenses = []
    for file in tracked():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # an image or an archive
        offenses += [
            f"{location(file)}:{i}: {line.strip()[:100]}"
            for i, line in enumerate(lines, 1)
            if MACHINE_PATH.search(line)
        ]
    report(offenses)


@pytest.mark.fault("H5", cases=1)
def test_the_trust_model_is_documented() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    for heading in ("What is trusted", "What is promised", "What is not promised", "Reporting"):
        assert f"## {heading}\n" in text
    assert "No pickle in any form" in text
