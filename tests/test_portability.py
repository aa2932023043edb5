"""Tests that Fabella starts, trains and generates without fcntl, resource, os.fork or SIGUSR1, as on Windows."""

import json
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


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text("Once upon a time there was a fox.\n\n" * 200)
    return tmp_path


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


@pytest.mark.slow
@pytest.mark.fault("I12", cases=1)
def test_every_kind_of_command_works_without_all_of_them(directory: Path) -> None:
    commands = [
        ["--help"], ["presets"], TRAIN, ["resume", "run", "training.length.max_steps=6"], ["verify", "run"], GENERATE,
    ]  # fmt: skip
    output = run_without(ALL, *commands, directory=directory)
    assert (directory / "run" / "latest").read_text() == "step-00000006\n"
    assert json.loads(output.splitlines()[-1])["completions"]


@pytest.mark.slow
@pytest.mark.fault("I12", cases=1)
def test_two_processes_train_without_fork(directory: Path) -> None:
    run_without(ALL, [*TRAIN, "--devices", "2"], directory=directory)
    assert (directory / "run" / "latest").read_text() == "step-00000004\n"
