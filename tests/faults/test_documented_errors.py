"""Tests that each documented error names the value, the rule and a fix, and that no command overwrites files."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run
from fabella.runs.run_dir import RunDir
from fabella.storage.lock import lock_dir
from tests.generation import tiny_run

STORY = "Once upon a time there was a fox. The fox was glad.\n\n"
TRAIN = ["train", "story.txt", "--steps", "2", "training.micro_batch_size=2", "model.dim=16", "model.heads=2"]
TRAIN += ["model.kv_heads=2", "data.sequences={kind: packed, length: 16, stride: 16}"]

# Locks that a case holds, released when it has ended.
held_locks: list[Any] = []

Prepare = Callable[[Path, pytest.MonkeyPatch], list[str]]


def sequences_longer_than_the_context(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    return ["train", "storybook-1m", "data.sequences.length=512"]


def run_directory_with_another_text(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    tiny_run.make(path / "runs" / "story")
    return TRAIN


def directory_with_other_files(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    (path / "runs" / "story").mkdir(parents=True)
    (path / "runs" / "story" / "holiday.jpg").write_bytes(b"\xff")
    return TRAIN


def locked_run(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    folder = tiny_run.make(path / "runs" / "story")
    held_locks.append(lock_dir(folder))
    held_locks[-1].__enter__()
    return ["resume", "runs/story"]


def damaged_checkpoint(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    folder = tiny_run.make(path / "runs" / "story", steps=(10,))
    weights = folder / "checkpoints" / "step-00000010" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return ["generate", "runs/story", "Once", "--checkpoint", "10"]


def checkpoint_of_another_model(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    small, large = tiny_run.run(), tiny_run.run({**tiny_run.LLAMA, "layers": 3})
    tiny_run.make(path / "large", large, steps=(10,))
    folder = tiny_run.make(path / "runs" / "story", small, steps=(10,))
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(path / "large" / "checkpoints", folder / "checkpoints")
    return ["generate", "runs/story", "Once", "--checkpoint", "10"]


def missing_checkpoint(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    tiny_run.make(path / "runs" / "story")
    return ["generate", "runs/story", "Once", "--checkpoint", "7"]


def another_tokenizer(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    folder = tiny_run.make(path / "runs" / "story", tiny_run.run(vocab_size=200), steps=(10,))
    assert RunDir.open(folder).run.model.vocab_size == 200
    return ["generate", "runs/story", "Once"]


def failing_write(number: int) -> Prepare:
    def prepare(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
        def fail(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        patch.setattr(os, "fsync", fail)
        return TRAIN

    return prepare


def hub_without_its_extra(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setitem(sys.modules, "datasets", None)  # as if the extra were not installed
    return ["train", "piny-37m", "--data", "hub:nobody/nothing"]


def interrupted_preparation(path: Path, patch: pytest.MonkeyPatch) -> list[str]:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    patch.setattr("fabella.data.prepare.pipeline._encode", interrupt)
    return TRAIN


ERRORS: dict[Prepare, tuple[int, list[str]]] = {
    sequences_longer_than_the_context: (2, ["data.sequences.length = 512", "model.context_length = 288", "lower it"]),
    run_directory_with_another_text: (4, ["runs/story", "fabella resume"]),
    directory_with_other_files: (4, ["runs/story", "holiday.jpg"]),
    locked_run: (4, ["locked by pid", "on host"]),
    damaged_checkpoint: (4, ["step-00000010/model.safetensors", "size"]),
    checkpoint_of_another_model: (4, ["blocks.2.attention"]),
    missing_checkpoint: (4, ["step-00000007", "step-00000010"]),
    another_tokenizer: (3, ["256 ids", "200"]),
    failing_write(errno.ENOSPC): (4, ["disk full", "are free at", "Free some space"]),
    failing_write(errno.EACCES): (4, ["permission denied", "Change the permissions"]),
    hub_without_its_extra: (3, ["needs datasets", "pip install 'fabella[hub]'"]),
    interrupted_preparation: (130, ["Interrupted while preparing", "Run the same command again."]),
}


@pytest.mark.fault("G8", cases=len(ERRORS))
@pytest.mark.parametrize(("prepare", "expected"), ERRORS.items(), ids=[error.__name__ for error in ERRORS])
def test_a_documented_error_names_the_problem_and_the_fix(
    prepare: Prepare,
    expected: tuple[int, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "story.txt").write_text(STORY * 60)
    command = prepare(tmp_path, monkeypatch)
    code = run(command)
    monkeypatch.undo()
    while held_locks:
        held_locks.pop().__exit__(None, None, None)
    err = capsys.readouterr().err
    assert code == expected[0], err
    assert "Traceback" not in err
    for part in expected[1]:
        assert part in err


def train_again(path: Path) -> list[str]:
    return [*TRAIN, "seed=5"]


def prepare_again(path: Path) -> list[str]:
    return ["prepare", "other.txt", "--tokenizer", "bytes", "--out", str(path / "prepared-before")]


def train_tokenizer_again(path: Path) -> list[str]:
    return ["tokenizer", "train", "other.txt", "--tokenizer", "bpe:300", "--out", str(path / "tokenizer-before")]


@pytest.mark.fault("G10", cases=3)
@pytest.mark.parametrize("again", [train_again, prepare_again, train_tokenizer_again])
def test_no_command_overwrites_existing_files(
    again: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(STORY * 60)
    (tmp_path / "other.txt").write_text(STORY * 70)
    assert run(TRAIN) == 0
    assert (
        run(["prepare", "story.txt", "--tokenizer", "bytes", "--context-length", "16", "--out", "prepared-before"]) == 0
    )
    assert run(["tokenizer", "train", "story.txt", "--tokenizer", "bpe:300", "--out", "tokenizer-before"]) == 0
    before = read_all_files(tmp_path)
    assert run(again(tmp_path)) == 4
    assert before.items() <= read_all_files(tmp_path).items()


def read_all_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {".lock", ".lock-holder"}
    }
