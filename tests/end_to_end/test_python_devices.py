"""Tests that ``fabella.train`` resumes and trains on several devices like the command."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import fabella
from fabella.cli.main import run as command
from fabella.errors import ConfigError, NumericsError, StorageError, TrainingInterrupted, UsageError
from fabella.run_config.files import load_config, to_yaml
from fabella.training.api import ERRORS
from fabella.training.loop import TrainingStep
from fabella.training.session import TrainResult
from tests.training import tiny

SETTINGS = [*tiny.SETTINGS, "training.gradient_accumulation=[[0, 1]]", "samples.every_steps=2"]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(to_yaml(load_config("storybook-1m", SETTINGS)))
    return tmp_path


def stop_at_three(step: TrainingStep) -> None:
    if step.progress.step == 3:
        os.kill(os.getpid(), signal.SIGINT)


def train(**options: Any) -> TrainResult:
    return fabella.train("tiny.yaml", device="cpu", steps=6, **options)


def test_an_interrupted_run_is_resumed_as_by_the_command() -> None:
    with pytest.raises(TrainingInterrupted):
        train(out="run", callbacks=[stop_at_three])
    with pytest.raises(StorageError, match="contains a run already"):
        train(out="run")
    assert train(out="run", resume=True).progress.step == 6
    assert command(["train", "tiny.yaml", "--steps", "6", "--device", "cpu", "--out", "straight"]) == 0
    assert tiny.fingerprint(Path("run")) == tiny.fingerprint(Path("straight"))


def test_resume_starts_a_run_that_does_not_exist() -> None:
    assert train(out="run", resume=True).progress.step == 6


@pytest.mark.slow
def test_two_devices_are_two_processes_and_give_the_result_of_the_run() -> None:
    result = train(out="two", devices=2)
    assert (result.path, result.progress.step) == (Path("two").absolute(), 6)
    assert [step for step, _ in result.losses][-1] == 6
    command(["train", "tiny.yaml", "--steps", "6", "--device", "cpu", "--out", "command", "--devices", "2"])
    assert tiny.fingerprint(Path("two")) == tiny.fingerprint(Path("command"))


@pytest.mark.slow
def test_an_error_of_a_process_is_raised_with_its_class() -> None:
    with pytest.raises(ConfigError, match=r"Training in 3 processes ended with exit code 2\. The error is printed"):
        train(out="three", devices=3)
    assert not Path("three").exists()


@pytest.mark.slow
def test_a_run_is_resumed_and_branched_on_two_devices() -> None:
    train(out="run")
    assert fabella.resume("run", steps=8, device="cpu", devices=2).progress.step == 8
    result = fabella.resume("run", checkpoint=6, out="branch", steps=8, device="cpu", devices=2)
    assert (result.path, result.progress.step) == (Path("branch").absolute(), 8)
    assert tiny.fingerprint(Path("run")) == tiny.fingerprint(Path("branch"))
    with pytest.raises(ConfigError, match="The error is printed above"):
        fabella.resume("run", checkpoint=6, out="refused", steps=9, device="cpu", devices=3)
    assert not Path("refused").exists()


def test_several_files_are_one_text_and_no_text_is_refused(directory: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (directory / name).write_text(f"{name} has a fox, and the fox is glad.\n\n" * 300)
    settings = {"model.dim": 16, "model.layers": 1, "data.sequences.length": 32, "data.sequences.stride": 32}
    result = fabella.train(["one.txt", Path("two.txt")], steps=1, out="both", settings=settings, device="cpu")
    assert load_config(str(result.path / "config.yaml")).data.source.model_dump()["paths"] == ("one.txt", "two.txt")
    for nothing in ("", []):
        with pytest.raises(UsageError, match="Nothing to train on was given"):
            fabella.train(nothing, steps=1)
    with pytest.raises(UsageError, match="negative"):
        fabella.resume("both", minutes=-3)


@pytest.mark.parametrize("name", ["prepare", "check-data", "train", "tune", "plan"])
def test_an_empty_path_of_a_text_is_not_the_working_directory(name: str, directory: Path) -> None:
    (directory / "one.txt").write_text("A fox is glad.\n\n" * 300)
    before = sorted(directory.rglob("*"))
    assert command([name, ""]) in {2, 3}
    assert sorted(directory.rglob("*")) == before


def test_devices_that_cannot_be_parsed_are_refused() -> None:
    with pytest.raises(ConfigError, match="Cannot parse --devices many"):
        train(devices="many")


def test_every_exit_code_has_an_error_of_its_class() -> None:
    assert ERRORS[5] is NumericsError
    assert all(error("a", hint="b").exit_code == code for code, error in ERRORS.items())
