"""Tests of the rules of the code base. Each test reports the file and line that breaks its rule.

Import directions between packages are checked by import-linter (`.importlinter`, run by `make check`).
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fabella.models
from fabella.config.base import ConfigModel
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_module, family_names
from fabella.run_config.run import RunConfig
from tests.source_tree import (
    FILES,
    PACKAGE,
    REPOSITORY,
    TESTS,
    TREES,
    Function,
    functions,
    import_graph,
    imported,
    is_command,
    location,
    report,
)

ENGINES = {"torch": "_torch", "triton": "_torch", "jax": "_jax", "optax": "_jax"}
"""Library → suffix of the only files that may import it."""
OPTIONAL_EXTRAS = {
    "datasets", "huggingface_hub", "pyarrow", "zstandard", "tiktoken", "lm_eval", "bs4", "docx", "gguf", "transformers",
    "onnx", "onnxruntime", "rensa",
}  # fmt: skip
"""Modules that may be imported inside a function: `pip install fabella` leaves them out."""
EMPTY_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "misc", "tools", "lib"}
"""Words that do not say what a file or class contains."""
SHARED_CLASS_NAMES = {"Config", "Model", "Block", "Attention", "State"}
"""Class names that every family or optimizer has; all others are unique in the package."""
FILES_PER_FOLDER = 12
"""Twins (`*_torch.py`, `*_jax.py`) and their description count once."""
FOLDERS_OF_COMMANDS = {"cli"}
"""One file a command: as many files as commands. For the same reason, families do not count in ``models``."""
OWN_IMPORTS = 15
LINES_PER_FILE = 600
LINES_PER_FUNCTION = 60
POSITIONAL_ARGUMENTS = 6
FIELDS_PER_SECTION = 12
FIELDS_OF_RUN = 14
"""RunConfig is the whole config: name, seed, engine and its sections."""


# ---------------------------------------------------------------- imports


def test_only_the_files_of_an_engine_import_its_library() -> None:
    report(
        [
            f"{location(file, node)} imports {name}; only *{suffix}.py may"
            for file in FILES
            for node in ast.walk(TREES[file])
            for name in imported(node)[:1]
            for engine, suffix in ENGINES.items()
            if name.split(".")[0] == engine and not file.stem.endswith(suffix)
        ]
    )


def test_only_optional_extras_are_imported_inside_a_function() -> None:
    report(
        [
            f"{location(file, node)} imports {imported(node)[0]} inside {function.name}()"
            for file in FILES
            for function in functions(TREES[file])
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
            if imported(node)[0].split(".")[0] not in OPTIONAL_EXTRAS
        ]
    )


def test_no_files_import_each_other_in_a_cycle() -> None:
    """Imports by name (``importlib.import_module``) count as well."""
    graph = import_graph()
    finished: set[Path] = set()

    def cycle_through(file: Path, path: list[Path]) -> list[Path]:
        if file in path:
            return [*path[path.index(file) :], file]
        if file in finished:
            return []
        for target in sorted(graph[file]):
            if found := cycle_through(target, [*path, file]):
                return found
        finished.add(file)
        return []

    cycles = [cycle for file in FILES if (cycle := cycle_through(file, []))]
    report([" → ".join(location(file) for file in cycle) for cycle in cycles[:1]])


def test_a_file_imports_few_of_our_own_modules() -> None:
    counts = {file: len([t for t in targets if t.name != "__init__.py"]) for file, targets in import_graph().items()}
    report([f"{location(file)} imports {n} own modules" for file, n in counts.items() if n > OWN_IMPORTS])


def test_a_family_imports_no_other_family() -> None:
    names = family_names()
    report(
        [
            f"{location(file, node)} imports {name}, which is another family"
            for file in sorted((PACKAGE / "models").glob("*.py"))
            for own in [re.sub(r"_(torch|jax)$", "", file.stem)]
            if own in names
            for node in ast.walk(TREES[file])
            for name in imported(node)
            for other in [re.sub(r"_(torch|jax)$", "", name.removeprefix("fabella.models.").split(".")[0])]
            if name.startswith("fabella.models.") and other in names and other != own
        ]
    )


def test_every_folder_with_code_is_a_package() -> None:
    report([location(file.parent) for file in FILES if not (file.parent / "__init__.py").exists()])


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


def stem(file: Path) -> str:
    """Return the name that twins share."""
    return re.sub(r"_(torch|jax)$", "", file.stem)


def test_a_folder_has_few_files() -> None:
    stems: dict[Path, set[str]] = {}
    for file in FILES:
        is_family = file.parent == PACKAGE / "models" and stem(file) in family_names()
        if file.name != "__init__.py" and file.parent.name not in FOLDERS_OF_COMMANDS and not is_family:
            stems.setdefault(file.parent, set()).add(stem(file))
    report([f"{location(folder)} has {len(names)}" for folder, names in stems.items() if len(names) > FILES_PER_FOLDER])


def test_no_file_is_very_long() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in TREES}
    report([f"{location(file)} has {n} lines" for file, n in lengths.items() if n > LINES_PER_FILE])


def test_functions_are_short() -> None:
    report(
        [
            f"{location(file, function)} {function.name}() has {lines} lines, more than {LINES_PER_FUNCTION}"
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
            f"{location(file, function)} {function.name}() takes {positional(function)} positional arguments"
            for file, tree in TREES.items()
            for function in functions(tree)
            if positional(function) > POSITIONAL_ARGUMENTS and not is_command(file, function)
        ]
    )


def test_a_class_name_is_unique_in_the_package() -> None:
    definitions = Counter(
        (node.name, location(file.parent / stem(file)))
        for file in FILES
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in SHARED_CLASS_NAMES
    )
    places: dict[str, list[str]] = {}
    for name, place in definitions:
        places.setdefault(name, []).append(place)
    report([f"{name}: {', '.join(files)}" for name, files in sorted(places.items()) if len(files) > 1])


def all_sections() -> list[type[ConfigModel]]:
    """Return every config section, those of the families included."""
    for name in family_names():
        family_module(name)
    sections: list[type[ConfigModel]] = []
    waiting: list[type[ConfigModel]] = [ConfigModel]
    while waiting:
        sections.append(waiting.pop())
        waiting += sections[-1].__subclasses__()
    return sections


def test_config_sections_have_few_fields() -> None:
    own = [section for section in all_sections() if section.__module__.startswith("fabella.")]
    fields = {
        section: set(section.model_fields) - (set(ModelConfig.model_fields) if section is not ModelConfig else set())
        for section in own
    }
    limits = {section: FIELDS_OF_RUN if section is RunConfig else FIELDS_PER_SECTION for section in own}
    report([f"{s.__qualname__} has {len(f)} fields" for s, f in fields.items() if len(f) > limits[s]])


def test_names_say_what_is_inside() -> None:
    def words(name: str) -> set[str]:
        return set(re.split(r"[_\W]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))

    offenses = [location(f) for f in FILES if words(f.stem) & EMPTY_NAMES or words(f.parent.name) & EMPTY_NAMES]
    offenses += [
        f"{location(file, node)} {node.name}"
        for file in FILES
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.ClassDef) and words(node.name) & EMPTY_NAMES
    ]
    report(offenses)


# ---------------------------------------------------------------- families


def test_a_family_is_found_by_its_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabella.models, "__path__", [*fabella.models.__path__, str(tmp_path)])
    (tmp_path / "sprout_torch.py").write_text("Config = 'found'")
    monkeypatch.delitem(sys.modules, "fabella.models.sprout_torch", raising=False)
    assert "sprout" in family_names()
    assert family_module("sprout").Config == "found"


# ---------------------------------------------------------------- tests


TESTS_OF_A_WHOLE_PACKAGE = {
    "tests/models/test_torch_tools.py",
    "tests/text/readers/test_document_files.py",
    "tests/server/page/test_states.py",
}
"""Every family with tools of PyTorch, every reader of the extra documents, every state of the page: no single file."""


def test_tests_mirror_the_source() -> None:
    report(
        [
            f"{location(file)} tests no file of that name"
            for file in TESTS
            if file.name.startswith("test_") and location(file) not in TESTS_OF_A_WHOLE_PACKAGE
            for folder in [file.parent.relative_to(REPOSITORY / "tests")]
            if (PACKAGE / folder).is_dir() and folder.parts
            if not any((PACKAGE / folder).glob(f"{file.stem.removeprefix('test_')}*"))
        ]
    )


MAY_SLEEP = {"tests/faults/training_processes.py"}
"""A process that is killed at a random moment must first run for a random time."""


def test_no_test_sleeps() -> None:
    report(
        [
            f"{location(file, node)} {ast.unparse(node)}"
            for file in TESTS
            if location(file) not in MAY_SLEEP
            for node in ast.walk(TREES[file])
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}
        ]
    )
