"""The laws of the house, measured on the files themselves. Each test names the file and line that breaks its law.

Import directions are held by import-linter (`.importlinter`, run by `make check`); everything it cannot see is here.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fabella.models
from fabella.config.base import ConfigModel
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_module, family_names
from fabella.run_config.run import RunConfig
from tests.source_tree import (
    FILES,
    HOUSE,
    PACKAGE,
    TESTS,
    TREES,
    Function,
    functions,
    imported,
    is_command,
    place,
    report,
)

# Law 2: what only the files of one engine may import.
ENGINES = {"torch": "_torch", "triton": "_torch", "jax": "_jax", "optax": "_jax"}
# The only imports allowed inside a function: what `pip install fabella` leaves out.
OPTIONAL_EXTRAS = {"datasets", "huggingface_hub", "pyarrow", "zstandard", "tiktoken", "lm_eval"}
# Names that say nothing about what is inside.
EMPTY_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "misc", "tools", "lib"}
LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60
POSITIONAL_ARGUMENTS = 6
FIELDS_PER_SECTION = 12
# Run is the config itself, not a section of it: name, seed, engine, and its sections.
FIELDS_OF_RUN = 14


# ---------------------------------------------------------------- imports


def test_only_an_engines_own_files_import_it() -> None:
    report(
        [
            f"{place(file, node)} imports {name}; only *{suffix}.py may"
            for file in FILES
            for node in ast.walk(TREES[file])
            for name in imported(node)[:1]
            for engine, suffix in ENGINES.items()
            if name.split(".")[0] == engine and not file.stem.endswith(suffix)
        ]
    )


def test_no_import_hides_in_a_function_but_that_of_an_optional_extra() -> None:
    report(
        [
            f"{place(file, node)} imports {imported(node)[0]} inside {function.name}()"
            for file in FILES
            for function in functions(TREES[file])
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
            if imported(node)[0].split(".")[0] not in OPTIONAL_EXTRAS
        ]
    )


def test_a_family_imports_no_other_family() -> None:
    names = family_names()
    models = PACKAGE / "models"
    report(
        [
            f"{place(file, node)} imports {name}, which is another family"
            for file in sorted(models.glob("*.py"))
            for own in [re.sub(r"_(torch|jax)$", "", file.stem)]
            if own in names
            for node in ast.walk(TREES[file])
            for name in imported(node)
            for other in [re.sub(r"_(torch|jax)$", "", name.removeprefix("fabella.models.").split(".")[0])]
            if name.startswith("fabella.models.") and other in names and other != own
        ]
    )


def test_every_room_is_a_package() -> None:
    report([place(file.parent) for file in FILES if not (file.parent / "__init__.py").exists()])


LIGHT = """
import sys
{load}
heavy = sorted({{"torch", "jax", "transformers", "datasets", "matplotlib"}} & set(sys.modules))
sys.exit(f"loaded: {{heavy}}" if heavy else 0)
"""


@pytest.mark.parametrize(
    "load",
    [
        "import fabella",
        "from fabella.cli import main; main.run(['--help'])",
        "from fabella.cli import main; main.run(['--version'])",
        "from fabella.cli import main; main.run(['presets'])",
        "from fabella.cli import main; main.run(['presets', 'piny-37m', '--json'])",
    ],
)
def test_a_light_command_loads_no_engine(load: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT.format(load=load)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- sizes and names


def test_files_are_short() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in TREES}
    report(
        [
            f"{place(file)} has {n} lines, more than {LINES_PER_FILE}"
            for file, n in lengths.items()
            if n > LINES_PER_FILE
        ]
    )


def test_functions_are_short() -> None:
    report(
        [
            f"{place(file, function)} {function.name}() has {lines} lines, more than {LINES_PER_FUNCTION}"
            for file, tree in TREES.items()
            for function in functions(tree)
            for lines in [(function.end_lineno or 0) - function.lineno + 1]
            if lines > LINES_PER_FUNCTION
        ]
    )


def test_functions_take_few_positional_arguments() -> None:
    def positional(function: Function) -> int:
        names = [argument.arg for argument in function.args.posonlyargs + function.args.args]
        return len(names) - (names[:1] in (["self"], ["cls"]))

    report(
        [
            f"{place(file, function)} {function.name}() takes {positional(function)} positional arguments"
            for file, tree in TREES.items()
            for function in functions(tree)
            if positional(function) > POSITIONAL_ARGUMENTS and not is_command(file, function)
        ]
    )


def every_section() -> list[type[ConfigModel]]:
    for name in family_names():
        family_module(name)
    found: list[type[ConfigModel]] = []
    waiting: list[type[ConfigModel]] = [ConfigModel]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return found


def test_config_sections_have_few_fields() -> None:
    own = [section for section in every_section() if section.__module__.startswith("fabella.")]
    fields = {
        section: set(section.model_fields) - (set(ModelConfig.model_fields) if section is not ModelConfig else set())
        for section in own
    }
    most = {section: FIELDS_OF_RUN if section is RunConfig else FIELDS_PER_SECTION for section in own}
    report([f"{s.__qualname__} has {len(f)} fields" for s, f in fields.items() if len(f) > most[s]])


def test_no_name_says_nothing() -> None:
    def words(name: str) -> set[str]:
        return set(re.split(r"[_\W]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))

    broken = [place(file) for file in FILES if words(file.stem) & EMPTY_NAMES or words(file.parent.name) & EMPTY_NAMES]
    broken += [
        f"{place(file, node)} {node.name}"
        for file in FILES
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.ClassDef) and words(node.name) & EMPTY_NAMES
    ]
    report(broken)


# ---------------------------------------------------------------- families


def test_a_family_is_found_by_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabella.models, "__path__", [*fabella.models.__path__, str(tmp_path)])
    (tmp_path / "nn_extra_torch.py").write_text("")
    (tmp_path / "sprout_torch.py").write_text("Config = 'found'")
    monkeypatch.delitem(sys.modules, "fabella.models.sprout_torch", raising=False)
    assert "sprout" in family_names()
    assert "nn_extra" not in family_names()
    assert family_module("sprout").Config == "found"


# ---------------------------------------------------------------- tests


def test_tests_mirror_the_source() -> None:
    report(
        [
            f"{place(file)} tests no file of that name"
            for file in TESTS
            if file.name.startswith("test_")
            for room in [file.parent.relative_to(HOUSE / "tests")]
            if (PACKAGE / room).is_dir() and room.parts
            if not any((PACKAGE / room).glob(f"{file.stem.removeprefix('test_')}*"))
        ]
    )


# A process that is killed at a random moment must first be left alone for a random while.
MAY_SLEEP = {"tests/faults/training_processes.py"}


def test_no_test_sleeps() -> None:
    report(
        [
            f"{place(file, node)} {ast.unparse(node)}"
            for file in TESTS
            if place(file) not in MAY_SLEEP
            for node in ast.walk(TREES[file])
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}
        ]
    )
