"""Fabella imports and trains where there is no fcntl, resource, os.fork or SIGUSR1, as on Windows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HIDE_POSIX = """
import os, signal, sys
import psutil  # its own implementation for this system needs them
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # an import of it raises ImportError
del os.fork
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
    delattr(signal, name)
import fabella
import fabella.cli.main
sys.exit(fabella.cli.main.main(sys.argv[1:]))
"""


def run_without_posix(*arguments: str, directory: Path) -> str:
    """Run a command in a child process without the POSIX modules; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE_POSIX, *arguments], cwd=directory, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["--help", "presets"])
def test_commands_that_only_print_need_no_posix(command: str, tmp_path: Path) -> None:
    assert run_without_posix(command, directory=tmp_path)


def test_a_run_trains_resumes_and_generates_without_posix(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time there was a fox.\n\n" * 200)
    settings = [
        "--out", "run", "--device", "cpu",
        "model.dim=16", "model.layers=1", "model.heads=2", "tokenizer.kind=bytes",
        "data.sequences.length=16", "data.sequences.stride=16", "training.micro_batch_size=2",
        "training.gradient_accumulation=[[0,1]]", "checkpoint.every_steps=2",
    ]  # fmt: skip
    run_without_posix("train", "story.txt", "--steps", "4", *settings, directory=tmp_path)
    run_without_posix("resume", "run", "training.length.max_steps=6", directory=tmp_path)
    assert (tmp_path / "run" / "latest").read_text() == "step-00000006\n"
    output = run_without_posix("generate", "run", "Once", "--max-tokens", "5", "--json", directory=tmp_path)
    assert json.loads(output)
