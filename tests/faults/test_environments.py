"""Tests that training works, or reports why not, without output, home or temporary directory, and with unusual paths.

Row D7 of the fault matrix.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fabella.cli import main
from tests.source_tree import REPOSITORY
from tests.training import tiny

COMMAND = ["train", "storybook-1m", *tiny.SETTINGS, "samples.every_steps=2", "--steps", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    return tiny.prepared(folder, tiny.run()).path


def train_command(out: Path, prepared: Path) -> list[str]:
    settings = [word for word in COMMAND if not word.startswith(("data.source", "data.validation", "tokenizer"))]
    return [*settings, "--data", str(prepared), "--out", str(out)]


def run_in_child(folder: Path, change_environment: Callable[[], None], arguments: list[str]) -> tuple[int, str]:
    """Run the command line in a child after ``change_environment``. Return its exit code and output."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            change_environment()
            code = main.run(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), (folder / "output").read_text(errors="replace")


def unset(*names: str) -> Callable[[], None]:
    return lambda: [os.environ.pop(name, None) for name in names] and None


MISSING_PATH = "/proc/there-is-nothing"
ENVIRONMENTS: dict[str, Callable[[], None]] = {
    "home that cannot be written": lambda: os.environ.update(HOME="/proc", XDG_CACHE_HOME="/proc/cache"),
    "home that does not exist": lambda: os.environ.update(
        HOME=MISSING_PATH, XDG_CACHE_HOME=MISSING_PATH, XDG_CONFIG_HOME=MISSING_PATH
    ),
    "no home": unset("HOME", "XDG_CACHE_HOME"),
    "no temporary directory": lambda: os.environ.update(TMPDIR=MISSING_PATH, TEMP=MISSING_PATH, TMP=MISSING_PATH),
    "restrictive umask": lambda: os.umask(0o077) and None,
    "dumb terminal": lambda: os.environ.update(TERM="dumb", COLUMNS="1", LINES="1"),
    "a terminal without width": lambda: os.environ.update(TERM="", COLUMNS="0"),
    "no search path": lambda: os.environ.update(PATH=""),
    "no standard input": lambda: os.close(0),
}


@pytest.mark.fault("D7", cases=len(ENVIRONMENTS))
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_training_works_in_this_environment(name: str, prepared: Path, tmp_path: Path) -> None:
    code, output = run_in_child(tmp_path, ENVIRONMENTS[name], train_command(tmp_path / "run", prepared))
    assert code == 0, output
    assert (tmp_path / "run" / "latest").read_text().strip() == "step-00000004"


@pytest.mark.fault("D7", cases=2)
@pytest.mark.parametrize("name", ["with spaces  and 'quotes'", "Märchen 故事 🦊 $HOME; rm"])
def test_a_run_directory_may_have_any_path(name: str, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    code, output = run_in_child(tmp_path, lambda: None, train_command(out, prepared))
    assert code == 0, output
    code, output = run_in_child(tmp_path, lambda: None, ["resume", str(out), "--steps", "6"])
    assert code == 0, output
    assert (out / "latest").read_text().strip() == "step-00000006"


SHELL_SCRIPTS: dict[str, tuple[str, int]] = {
    "the C locale": ('LC_ALL=C LANG=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 "$@"', 0),
    "output and errors closed": ('"$@" >&- 2>&-', 0),
    "a reader that has exited": ('"$@" 2>&1 | true; exit "${PIPESTATUS[0]}"', 1),  # the result cannot be printed
}


@pytest.mark.slow
@pytest.mark.fault("D7", cases=len(SHELL_SCRIPTS))
@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_training_ends_well_with_any_locale_and_output(name: str, prepared: Path, tmp_path: Path) -> None:
    script, code = SHELL_SCRIPTS[name]
    command = [sys.executable, "-m", "fabella", *train_command(tmp_path / "run", prepared)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    process = subprocess.run(["bash", "-c", script, "bash", *command], env=environment, capture_output=True, text=True)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    assert (tmp_path / "run" / "latest").read_text().strip() == "step-00000004"
