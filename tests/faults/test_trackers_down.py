"""Tests that failing trackers and clock changes do not change a single bit of a training run.

Rows D5 and D8 of the fault matrix.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.errors import DiskFullError, TrainingInterrupted
from fabella.runs.metrics_log import read_rows
from fabella.tracking import async_tracker
from fabella.training.run import resume, start_run
from tests.tracking.fake_wandb import FakeWandb, after, hangs, raises
from tests.training import tiny
from tests.training.test_run import StopAt

STEPS = 20
SETTINGS = ["tracking.wandb.mode=online", "tracking.histogram_every_steps=4"]
TIMEOUT_SECONDS = 60.0
"""Timeout in seconds for a service that responds, also on a busy machine."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def without_tracker(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run without a tracker."""
    return start_run(tiny.run(steps=STEPS), tmp_path_factory.mktemp("runs") / "straight", data).path


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """An event that a hanging service waits for. It is set after the test, so that no thread remains."""
    event = threading.Event()
    yield event
    event.set()


def failures(hang: threading.Event) -> dict[str, dict[str, Callable[[], None]]]:
    """Return name → function of the fake wandb → its failure, for each function and each kind of failure."""
    kinds: dict[str, Callable[[], None]] = {
        "no such host": raises(OSError("Name or service not known")),
        "500": raises(RuntimeError("500 Server Error")),
        "full": raises(OSError(28, "No space left on device")),
        "exit": raises(SystemExit(3)),
        "no answer": hangs(hang),
    }
    functions = {"init": 0, "log": 7, "log_artifact": 0, "finish": 0}
    return {
        f"{function}: {name}": {function: after(calls, failure)}
        for (function, calls), (name, failure) in itertools.product(functions.items(), kinds.items())
    }


NAMES = list(failures(threading.Event()))


@pytest.fixture
def failure(request: pytest.FixtureRequest, hang: threading.Event, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a failing fake of wandb, and return the name of the failure."""
    # Only the service that hangs reaches the timeout; other failures come before it, also on a busy machine.
    timeout_seconds = 0.2 if request.param.endswith("no answer") else TIMEOUT_SECONDS
    monkeypatch.setattr(
        async_tracker.AsyncTracker.close, "__kwdefaults__", {"silent": timeout_seconds, "at_most": timeout_seconds}
    )
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(**failures(hang)[request.param]))  # pyright: ignore[reportArgumentType]
    return request.param


@pytest.mark.fault("D5", cases=20)
@pytest.mark.parametrize("failure", NAMES, indirect=True)
def test_a_failing_tracker_changes_nothing_and_is_reported_once(
    failure: str, without_tracker: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = start_run(tiny.run(*SETTINGS, steps=STEPS), tmp_path / "run", data).path
    assert tiny.fingerprint(out) == tiny.fingerprint(without_tracker)
    output = capsys.readouterr().err
    if failure.endswith("no answer"):
        assert output.count("Weights & Biases did not finish in time") == 1
    else:
        assert output.count("Weights & Biases failed and is disabled for the rest of the run") == 1


@pytest.mark.fault("D5", cases=1)
def test_a_full_disk_stops_only_the_tensorboard_file(
    without_tracker: Path,
    data: TokenizedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    SummaryWriter: Any = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    trigger = after(5, raises(DiskFullError("disk full: nothing free.")))
    flush = SummaryWriter.flush
    monkeypatch.setattr(SummaryWriter, "flush", lambda self: (trigger(), flush(self))[1])
    out = start_run(tiny.run("tracking.tensorboard=true", steps=STEPS), tmp_path / "run", data).path
    assert tiny.fingerprint(out) == tiny.fingerprint(without_tracker)
    assert capsys.readouterr().err.count("TensorBoard failed and is disabled for the rest of the run: disk full") == 1


def test_a_working_tracker_gets_every_row_and_resumes_the_same_run(
    without_tracker: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", package)  # pyright: ignore[reportArgumentType]
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        start_run(tiny.run(*SETTINGS, steps=STEPS), out, data, callbacks=[StopAt(13)])
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(without_tracker)
    assert package.inits[0]["id"] == package.inits[1]["id"]
    logged = {
        kind: [step for step, values in package.logged if f"{kind}/loss" in values] for kind in ("train", "final")
    }
    assert logged == {"train": [1, *range(3, 20, 3)], "final": [20]}
    spread = [step for step, values in package.logged if any(name.startswith("gradients/") for name in values)]
    assert spread == list(range(4, 21, 4))
    assert [artifact.metadata["step"] for artifact in package.artifacts] == [20]
    assert Path(package.artifacts[0].files[0]).is_file()


@pytest.mark.fault("D8", cases=3)
@pytest.mark.parametrize("clock", ["set back", "set forward", "standing still"])
def test_clock_changes_affect_neither_training_nor_durations(
    clock: str, without_tracker: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    start = time.time()
    jumps: dict[str, Iterator[float]] = {
        "set back": (start - 3600.0 * call for call in itertools.count()),
        "set forward": (start + 86400.0 * call for call in itertools.count()),
        "standing still": itertools.repeat(start),
    }
    monkeypatch.setattr(time, "time", lambda: next(jumps[clock]))
    out = start_run(tiny.run("training.log_every_steps=1", steps=STEPS), tmp_path / "run", data).path
    rows = [row for row in _rows(out) if row["kind"] == "train"]
    assert [row["loss"] for row in rows][2::3] == [
        row["loss"] for row in _rows(without_tracker) if row["kind"] == "train"
    ][1:]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 3600
    assert all(0 <= row["step_seconds_p1"] <= row["step_seconds_p99"] < 3600 for row in rows)
    assert all(0 <= row["data_wait_fraction"] <= 1 for row in rows)
    times_left = [line.split("tokens/s")[1] for line in capsys.readouterr().err.splitlines() if "tokens/s" in line]
    assert times_left
    assert "-" not in "".join(times_left)


def _rows(out: Path) -> list[dict[str, Any]]:
    return read_rows(out / "metrics.jsonl")
