"""KeyboardInterrupt at any moment of a training: whatever is left behind is whole, and is gone on from.

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

MOMENTS, MOMENTS_AT_NIGHT, RESUMED = 12, 500, 3
OFTEN = ("checkpoint.every_steps=1", "validation.every_steps=3", "samples.every_steps=5")
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def interrupted(out: Path, data: TokenizedDataset, seconds: float) -> bool:
    """Train in a child of this process that is interrupted after ``seconds``; whether it came to its end before."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            start_run(tiny.run(*OFTEN, steps=STEPS), out, data, device="cpu")
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
        load(folder, "latest")  # checks every byte; one that was being written lies aside
    for name in ("metrics.jsonl", "samples.jsonl"):
        read_rows(out / name)


def interrupt(data: TokenizedDataset, place: Path, moments: int) -> None:
    began = time.monotonic()
    assert interrupted(place / "straight", data, 1000.0)
    chance, longest = random.Random(1), time.monotonic() - began
    ends = 0
    for number in range(moments):
        out = place / str(number)
        ends += interrupted(out, data, chance.uniform(0.0, longest))
        check_intact(out)
        if number < RESUMED and (out / "config.yaml").exists():
            resume(out, device="cpu")
            assert tiny.fingerprint(out) == tiny.fingerprint(place / "straight")
    assert ends < moments, "some came in time"


@pytest.mark.slow
@pytest.mark.fault("D10", cases=MOMENTS)
def test_everything_on_disk_is_intact(data: TokenizedDataset, quick_path: Path) -> None:
    interrupt(data, quick_path, MOMENTS)


@pytest.mark.faults
@pytest.mark.fault("D10", cases=MOMENTS_AT_NIGHT)
def test_everything_on_disk_is_intact_many_times(data: TokenizedDataset, quick_path: Path) -> None:
    interrupt(data, quick_path, MOMENTS_AT_NIGHT)
