"""Tests that a KeyboardInterrupt at any moment of training leaves complete files from which the run resumes.

Row D10 of the fault matrix.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.errors import TrainingInterrupted
from fabella.runs.checkpoint import load
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir
from fabella.training.run import resume, start_run
from tests.training import tiny

INTERRUPTS, INTERRUPTS_AT_NIGHT, RESUMED_RUNS = 12, 500, 3
FREQUENT_CALLBACKS = ("checkpoint.every_steps=1", "validation.every_steps=3", "samples.every_steps=5")
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def train_until_interrupt(out: Path, data: TokenizedDataset, seconds: float) -> bool:
    """Train in a child that is interrupted after ``seconds``. Return whether training finished before that."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            start_run(tiny.run(*FREQUENT_CALLBACKS, steps=STEPS), out, data, device="cpu")
            code = 0
        except (KeyboardInterrupt, TrainingInterrupted):
            code = 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, 2}
    return code == 0


def check_intact(out: Path) -> None:
    if not (out / "config.yaml").exists():
        return
    folder = RunDir.open(out)
    if folder.steps():
        load(folder, "latest")  # verifies the checksums; a checkpoint that was being written has a temporary name
    for name in ("metrics.jsonl", "samples.jsonl"):
        read_rows(out / name)


def check_interrupts(data: TokenizedDataset, path: Path, interrupts: int) -> None:
    start = time.monotonic()
    assert train_until_interrupt(path / "straight", data, 1000.0)
    generator, duration = random.Random(1), time.monotonic() - start
    finished = 0
    for number in range(interrupts):
        out = path / str(number)
        finished += train_until_interrupt(out, data, generator.uniform(0.0, duration))
        check_intact(out)
        if number < RESUMED_RUNS and (out / "config.yaml").exists():
            resume(out, device="cpu")
            assert tiny.fingerprint(out) == tiny.fingerprint(path / "straight")
    assert finished < interrupts, "no interrupt came before the end of a run"


@pytest.mark.slow
@pytest.mark.fault("D10", cases=INTERRUPTS)
def test_everything_on_disk_is_intact(data: TokenizedDataset, quick_path: Path) -> None:
    check_interrupts(data, quick_path, INTERRUPTS)


@pytest.mark.faults
@pytest.mark.fault("D10", cases=INTERRUPTS_AT_NIGHT)
def test_everything_on_disk_is_intact_many_times(data: TokenizedDataset, quick_path: Path) -> None:
    check_interrupts(data, quick_path, INTERRUPTS_AT_NIGHT)
