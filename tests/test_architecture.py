"""The laws of the house, measured on the files themselves. Each test names the file and line that breaks its law.

Import directions are held by import-linter (`.importlinter`, run by `make check`); everything it cannot see is here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fabella.models
from fabella.config import ModelConfig, Section, families, family_module

HOUSE = Path(__file__).parents[1]
PACKAGE = HOUSE / "src" / "fabella"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((HOUSE / "tests").rglob("*.py"))
BENCHMARKS = sorted((HOUSE / "benchmarks").rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8"), filename=str(file)) for file in FILES + TESTS + BENCHMARKS}

# Law 2: what only the files of one engine may import.
ENGINES = {"torch": "_torch", "triton": "_torch", "jax": "_jax", "optax": "_jax"}
# The only imports allowed inside a function: what `pip install fabella` leaves out.
OPTIONAL_EXTRAS = {"datasets", "huggingface_hub", "pyarrow", "zstandard", "tiktoken"}
# Names that say nothing about what is inside.
EMPTY_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "misc", "tools", "lib"}
# Methods that torch, typer or http.server asks for, and describes.
CALLED_BY_A_LIBRARY = {"forward", "backward", "list_commands", "get_command", "resolve_command", "format_help"}

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60
POSITIONAL_ARGUMENTS = 6
FIELDS_PER_SECTION = 12

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
    names = families()
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


def is_command(file: Path, function: Function) -> bool:
    """A command's parameters are the options of the command line, which nobody passes by position."""
    return file.parent == PACKAGE / "cli" and (function.name == "command" or bool(function.decorator_list))


def every_section() -> list[type[Section]]:
    for name in families():
        family_module(name)
    found: list[type[Section]] = []
    waiting: list[type[Section]] = [Section]
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
    report([f"{s.__qualname__} has {len(f)} fields" for s, f in fields.items() if len(f) > FIELDS_PER_SECTION])


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
    assert "sprout" in families()
    assert "nn_extra" not in families()
    assert family_module("sprout").Config == "found"


# ---------------------------------------------------------------- safety


def unsafe(node: ast.AST) -> str:
    """Why this call or import could run code that came with a file; empty when it cannot."""
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
        return "runs what it reads"
    if callee == "yaml.load" and "Loader" not in keywords:
        return "must name a safe Loader"
    forbidden = {("weights_only", "False"), ("allow_pickle", "True"), ("trust_remote_code", "True"), ("shell", "True")}
    return ", ".join(f"{name}={value}" for name, value in sorted(forbidden & set(keywords.items())))


@pytest.mark.fault("E2", cases=1)
def test_nothing_that_is_read_can_run() -> None:
    report([f"{place(f, n)} {unsafe(n)}" for f in FILES + BENCHMARKS for n in ast.walk(TREES[f]) if unsafe(n)])


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
def test_the_safety_law_bites(code: str, why: str) -> None:
    assert why in [unsafe(node) for node in ast.walk(ast.parse(code))]


# ---------------------------------------------------------------- words


def test_every_file_says_what_it_is_for() -> None:
    report([place(file) for file in FILES if TREES[file].body and not ast.get_docstring(TREES[file])])


def test_every_public_function_has_a_docstring() -> None:
    """A method may leave it to the contract it fulfils: a method of the same name in a class it can be used as."""
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
            f"{place(file, function)} {function.name}()"
            for file in FILES
            for owner, function in public_functions(TREES[file])
            if not ast.get_docstring(function)
            if not (owner and owner.bases and function.name in described | CALLED_BY_A_LIBRARY)
            if not is_command(file, function)
        ]
    )


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    """The functions of the module and the methods of its public classes, but names with an underscore."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner, body in [(None, tree.body), *((c, c.body) for c in classes)]:
        for node in body:
            if isinstance(node, Function) and not node.name.startswith("_"):
                yield owner, node


COMMANDS = [file for file in sorted((PACKAGE / "cli").glob("*.py")) if file.stem not in {"__init__", "main", "output"}]


@pytest.mark.parametrize("file", COMMANDS, ids=[file.stem for file in COMMANDS])
def test_every_command_shows_examples(file: Path) -> None:
    text = ast.get_docstring(TREES[file]) or ""
    name = file.stem.replace("_", "-")
    assert "Examples:" in text, f"{place(file)} has no Examples"
    assert f"  fabella {name}" in text.split("Examples:")[1], f"{place(file)}: no example begins with fabella {name}"
    assert text.splitlines()[0].endswith("."), f"{place(file)}: the first line is the summary, a sentence"


def tree_in_readme() -> dict[str, str]:
    """Name → purpose, from the tree of `src/fabella` that README.md prints."""
    block = re.search(r"```text\nsrc/fabella/\n(.*?)```", (HOUSE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block, "README.md prints no tree of src/fabella/"
    lines = [line.strip().split(None, 1) for line in block[1].splitlines() if line.strip()]
    return {line[0]: line[1] for line in lines}


def test_readme_prints_the_real_tree() -> None:
    rooms = {f"{item.name}/" for item in PACKAGE.iterdir() if item.is_dir() and item.name != "__pycache__"}
    files = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(tree_in_readme()) == rooms | files


# ---------------------------------------------------------------- tests


def test_tests_mirror_the_source() -> None:
    report(
        [
            f"{place(file)} tests no file of that name"
            for file in TESTS
            if file.name.startswith("test_") and len(file.relative_to(HOUSE / "tests").parts) == 2
            for room in [file.parent.name]
            if (PACKAGE / room).is_dir()
            if not any((PACKAGE / room).glob(f"{file.stem.removeprefix('test_')}*"))
        ]
    )


def test_no_test_sleeps_or_judges_a_time() -> None:
    report(
        [
            f"{place(file, node)} {ast.unparse(node)}"
            for file in TESTS
            for node in ast.walk(TREES[file])
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}
        ]
    )


# ---------------------------------------------------------------- what is committed


def tracked() -> list[Path]:
    """Every file that git tracks; where there is no git, what stands in the rooms of the house."""
    if (HOUSE / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, text=True, check=True).stdout
        return [HOUSE / name for name in listed.split("\0") if name and (HOUSE / name).is_file()]
    return [*TREES, *HOUSE.glob("*.md"), *(HOUSE / "docs").rglob("*.md")]


MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|work|root|tmp|opt|Users|mnt)/[A-Za-z0-9_.-]")


def test_no_path_of_somebodys_machine_is_committed() -> None:
    broken = []
    for file in tracked():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or an archive
        broken += [
            f"{place(file)}:{i}: {line.strip()[:100]}" for i, line in enumerate(lines, 1) if MACHINE_PATH.search(line)
        ]
    report(broken)
