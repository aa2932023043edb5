"""Tests that Fabella starts, trains and generates without fcntl, resource, os.fork or SIGUSR1, and as on Windows.

Windows itself is not at hand: `tests/windows/sitecustomize.py` hides and refuses what Windows lacks and refuses.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HIDE = """
import json, os, signal, sys
import psutil  # its own implementation for this system needs them
for name in sys.argv[1].split(","):
    if name in ("fcntl", "resource"):
        sys.modules[name] = None  # an import of it raises ImportError
    elif name == "fork":
        del os.fork
    else:
        delattr(signal, name)
from fabella.cli.main import install_signal_handlers, run
install_signal_handlers()
for command in json.loads(sys.argv[2]):
    code = run(command)
    if code:
        sys.exit(code)
"""
ALL = "fcntl,resource,fork,SIGUSR1,SIGUSR2,SIGHUP"
TRAIN = [
    "train", "story.txt", "--out", "run", "--device", "cpu", "--steps", "4",
    "model.dim=16", "model.layers=1", "model.heads=2", "tokenizer.kind=bytes", "data.sequences.length=16",
    "data.sequences.stride=16", "training.micro_batch_size=2", "training.gradient_accumulation=[[0,1]]",
    "checkpoint.every_steps=2",
]  # fmt: skip
GENERATE = ["generate", "run", "Once", "--max-tokens", "5", "--json"]


WINDOWS = Path(__file__).parent / "windows"
"""Directory whose `sitecustomize.py` refuses what Windows refuses."""
TEXT = "Once upon a time there was a fox \u2192 \U0001f98a.\n\n"
"""Text with characters that the code page of a Windows console lacks."""
RUN = """
import json, sys
from fabella.cli.main import run
from fabella.cli.output import print_any_text
print_any_text()
for command in json.loads(sys.argv[1]):
    code = run(command)
    if code:
        sys.exit(f"{command}: exit code {code}")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text(TEXT * 200, encoding="utf-8")
    return tmp_path


def windows_environment() -> dict[str, str]:
    """Return the environment of a process that is, with its children, on the emulation of Windows.

    Text that is not in an encoding of its own is an error in Fabella's modules.
    """
    paths = [str(WINDOWS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONIOENCODING": "cp1252",
    }


def run_on_windows(*commands: list[str], directory: Path) -> str:
    """Run commands in one process on the emulation of Windows; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        cwd=directory, env=windows_environment(), capture_output=True, encoding="cp1252", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_without(missing: str, *commands: list[str], directory: Path) -> str:
    """Run commands in one child process without these names; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE, missing, json.dumps(commands)],
        cwd=directory, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.fault("I12", cases=4)
@pytest.mark.parametrize("missing", ["fcntl", "resource", "fork", "SIGUSR1"])
def test_text_is_checked_and_prepared_without(missing: str, directory: Path) -> None:
    prepare = ["prepare", "story.txt", "--tokenizer", "bytes", "--out", "prepared", "--workers", "1"]
    run_without(missing, ["--help"], ["check-data", "story.txt"], prepare, directory=directory)
    assert (directory / "prepared" / "manifest.json").exists()


REFUSED = """
import os

def fails(code, module="fabella.some_module"):
    try:
        exec("import os, signal;" + code, {"__name__": module})
    except (AttributeError, ImportError, OSError, EncodingWarning):
        return True
    return False

with open("a.txt", "w", encoding="utf-8") as file:
    file.write("a")
    file.flush()
    assert fails("os.rename('a.txt', 'b.txt')") and fails("os.unlink('a.txt')")
assert not fails("os.rename('a.txt', 'b.txt')")
assert fails("os.open('.', os.O_RDONLY)") and fails("os.mkdir('bpe:512')") and fails("open('what?', 'wb')")
assert fails("file = open('b.txt', 'rb'); os.fsync(file)") and not fails("file = open('b.txt', 'ab'); os.fsync(file)")
write = "os.write(os.open('c.txt', os.O_WRONLY | os.O_CREAT{}), b'c')"
assert fails(write.format("")) and not fails(write.format(" | os.O_BINARY"))
assert fails("open('b.txt').read()") and not fails("open('b.txt', encoding='utf-8').read()")
for code in ("os.pread", "signal.SIGKILL", "import fcntl", "from importlib import import_module; import_module('tty')"):
    assert fails(code) and not fails(code, "another_package"), code
"""


@pytest.mark.slow
def test_the_emulation_of_windows_refuses_what_windows_refuses(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], cwd=tmp_path, env=windows_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.fault("I12", cases=1)
def test_every_kind_of_command_works_on_an_emulation_of_windows(directory: Path) -> None:
    output = run_on_windows(
        ["check-data", "story.txt"],
        ["tokenizer", "train", "story.txt", "--tokenizer", "bpe:280", "--out", "tokenizer"],
        ["prepare", "story.txt", "--tokenizer", "tokenizer", "--out", "prepared/mine", "--workers", "2"],
        ["plan", "story.txt"],
        [*TRAIN, "training.length.max_steps=8", "checkpoint.keep_last=1", "validation.every_steps=2"],
        ["resume", "run", "training.length.max_steps=10"],
        [*TRAIN, "--out", "streamed", "data.mode.kind=streaming"],
        ["verify", "run"],
        ["evaluate", "run", "--num-samples", "2", "--max-tokens", "8"],
        ["report", "run", "streamed"],
        ["export", "run", "--to", "hf"],
        GENERATE,
        directory=directory,
    )
    assert (directory / "run" / "latest").read_text() == "step-00000010\n"
    assert json.loads(output.splitlines()[-1])["completions"]
    assert "\\u2192" in output  # in the preview of check-data


@pytest.mark.slow
@pytest.mark.fault("I12", cases=1)
def test_two_processes_train_without_fork(directory: Path) -> None:
    run_without(ALL, [*TRAIN, "--devices", "2"], directory=directory)
    assert (directory / "run" / "latest").read_text() == "step-00000004\n"
