"""Tests that the call path from a command to its work passes few files of Fabella, traced in the running program."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fabella.cli import main
from tests.source_tree import PACKAGE

MAX_FILES = 7
"""Maximum number of files, from that of the command to that of the work."""
SETTINGS = [
    "training.micro_batch_size=2", "model.dim=16", "model.heads=2", "model.kv_heads=1", "model.ffn_dim=16",
    "model.layers=1", "tokenizer.kind=bytes", "model.vocab_size=256", "validation.num_sequences=1",
    "samples.every_steps=100",
]  # fmt: skip


PARSERS = {"cli/main.py", "cli/text_options.py"}
"""Files that parse the command line before the command is called."""


@contextmanager
def traced(is_work: Callable[[FrameType], bool]) -> Iterator[list[list[str]]]:
    """Record the files of Fabella on the stack, outermost first, at each call for which ``is_work`` is true."""
    stacks: list[list[str]] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and is_work(frame):
            stacks.append(own_files(frame))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield stacks
    finally:
        sys.setprofile(before)


def own_files(frame: FrameType | None) -> list[str]:
    """Return the distinct files of the package on the stack, from the command on."""
    files: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            files.append(path.relative_to(PACKAGE).as_posix())
        frame = frame.f_back
    distinct = list(dict.fromkeys(reversed(files)))
    return [file for file in distinct if file not in PARSERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """Train three steps from the command line. Return the run directory and the stack of each optimizer step."""
    folder = tmp_path_factory.mktemp("run")
    out = folder / "run"
    command = ["train", "storybook-1m", "--data", "storybook:200", "--steps", "3", "--out", str(out)]
    command += ["--prepared", str(folder / "prepared"), *SETTINGS]

    def is_optimizer_step(frame: FrameType) -> bool:
        return frame.f_code.co_name == "adam" and "torch/optim/adam" in frame.f_code.co_filename

    with traced(is_optimizer_step) as stacks:
        assert main.run(command) == 0
    return out, stacks


def test_few_files_lie_between_train_and_the_optimizer_step(run: tuple[Path, list[list[str]]]) -> None:
    _, stacks = run
    assert len(stacks) >= 3
    longest_stack = max(stacks, key=len)
    assert longest_stack[0] == "cli/train.py"
    assert len(longest_stack) <= MAX_FILES, longest_stack


def test_few_files_lie_between_generate_and_the_next_token(run: tuple[Path, list[list[str]]]) -> None:
    out, _ = run

    def is_sampling(frame: FrameType) -> bool:
        path = Path(frame.f_code.co_filename)
        return frame.f_code.co_name == "sample" and path.is_relative_to(PACKAGE / "generation")

    with traced(is_sampling) as stacks:
        assert main.run(["generate", str(out), "Once", "--max-tokens", "4", "--seed", "1"]) == 0
    assert len(stacks) >= 4
    longest_stack = max(stacks, key=len)
    assert longest_stack[0] == "cli/generate.py"
    assert len(longest_stack) <= MAX_FILES, longest_stack
