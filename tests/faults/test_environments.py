"""Odd surroundings: no output, no home, no place for temporary files, strange names. A training works, or says why not.

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

WORDS = ["train", "storybook-1m", *tiny.SETTINGS, "samples.every_steps=2", "--steps", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    return tiny.prepared(folder, tiny.run()).folder


def words(out: Path, prepared: Path) -> list[str]:
    settings = [word for word in WORDS if not word.startswith(("data.source", "data.validation", "tokenizer"))]
    return [*settings, "--data", str(prepared), "--out", str(out)]


def run_in_child(folder: Path, surroundings: Callable[[], None], arguments: list[str]) -> tuple[int, str]:
    """Exit code of the command line in a child of this process, in such surroundings, and what it said."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            said = os.open(folder / "said", os.O_CREAT | os.O_WRONLY, 0o600)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            surroundings()
            code = main.run(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), (folder / "said").read_text(errors="replace")


def unset(*names: str) -> Callable[[], None]:
    return lambda: [os.environ.pop(name, None) for name in names] and None


NOWHERE = "/proc/there-is-nothing"
SURROUNDINGS: dict[str, Callable[[], None]] = {
    "home that cannot be written": lambda: os.environ.update(HOME="/proc", XDG_CACHE_HOME="/proc/cache"),
    "home that is not there": lambda: os.environ.update(HOME=NOWHERE, XDG_CACHE_HOME=NOWHERE, XDG_CONFIG_HOME=NOWHERE),
    "no home": unset("HOME", "XDG_CACHE_HOME"),
    "no place for temporary files": lambda: os.environ.update(TMPDIR=NOWHERE, TEMP=NOWHERE, TMP=NOWHERE),
    "files for nobody else": lambda: os.umask(0o077) and None,
    "no terminal that can do anything": lambda: os.environ.update(TERM="dumb", COLUMNS="1", LINES="1"),
    "a terminal without width": lambda: os.environ.update(TERM="", COLUMNS="0"),
    "no search path": lambda: os.environ.update(PATH=""),
    "no standard input": lambda: os.close(0),
}


@pytest.mark.fault("D7", cases=len(SURROUNDINGS))
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_training_works_in_this_environment(name: str, prepared: Path, tmp_path: Path) -> None:
    code, said = run_in_child(tmp_path, SURROUNDINGS[name], words(tmp_path / "run", prepared))
    assert code == 0, said
    assert (tmp_path / "run" / "latest").read_text().strip() == "step-00000004"


@pytest.mark.fault("D7", cases=2)
@pytest.mark.parametrize("name", ["with spaces  and 'quotes'", "Märchen 故事 🦊 $HOME; rm"])
def test_a_run_directory_may_have_any_path(name: str, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    code, said = run_in_child(tmp_path, lambda: None, words(out, prepared))
    assert code == 0, said
    code, said = run_in_child(tmp_path, lambda: None, ["resume", str(out), "--steps", "6"])
    assert code == 0, said
    assert (out / "latest").read_text().strip() == "step-00000006"


STARTED: dict[str, tuple[str, int]] = {
    "the C locale": ('LC_ALL=C LANG=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 "$@"', 0),
    "output and errors closed": ('"$@" >&- 2>&-', 0),
    "a reader that has gone": ('"$@" 2>&1 | true; exit "${PIPESTATUS[0]}"', 1),  # who asked for the result has none
}


@pytest.mark.slow
@pytest.mark.fault("D7", cases=len(STARTED))
@pytest.mark.parametrize("name", STARTED)
def test_training_ends_well_with_any_locale_and_output(name: str, prepared: Path, tmp_path: Path) -> None:
    script, code = STARTED[name]
    command = [sys.executable, "-m", "fabella", *words(tmp_path / "run", prepared)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(["bash", "-c", script, "bash", *command], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "latest").read_text().strip() == "step-00000004"
