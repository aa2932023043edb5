"""Services that are down, slow, broken or full, and clocks that are set: the training is the same to the bit.

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
PATIENCE = 60.0
"""Seconds that a service that answers may take on a busy machine"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody is told of."""
    return start_run(tiny.run(steps=STEPS), tmp_path_factory.mktemp("runs") / "straight", data).folder


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a service waits for that hangs; it comes when the test is over, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def failures(never: threading.Event) -> dict[str, dict[str, Callable[[], None]]]:
    """Where a service is in trouble, and what the trouble is."""
    troubles: dict[str, Callable[[], None]] = {
        "no such host": raises(OSError("Name or service not known")),
        "500": raises(RuntimeError("500 Server Error")),
        "full": raises(OSError(28, "No space left on device")),
        "exit": raises(SystemExit(3)),
        "no answer": hangs(never),
    }
    places = {"init": 0, "log": 7, "log_artifact": 0, "finish": 0}
    return {
        f"{place}: {name}": {place: after(calls, trouble)}
        for (place, calls), (name, trouble) in itertools.product(places.items(), troubles.items())
    }


NAMES = list(failures(threading.Event()))


@pytest.fixture
def trouble(request: pytest.FixtureRequest, never: threading.Event, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the trouble that Weights & Biases is in."""
    # Only one that never answers is waited for in vain; any other is told in time, however busy the machine is.
    patience = 0.2 if request.param.endswith("no answer") else PATIENCE
    monkeypatch.setattr(async_tracker.AsyncTracker.close, "__kwdefaults__", {"silent": patience, "at_most": patience})
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(**failures(never)[request.param]))  # pyright: ignore[reportArgumentType]
    return request.param


@pytest.mark.fault("D5", cases=20)
@pytest.mark.parametrize("trouble", NAMES, indirect=True)
def test_a_failing_tracker_changes_nothing_and_is_reported_once(
    trouble: str, straight: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = start_run(tiny.run(*SETTINGS, steps=STEPS), tmp_path / "run", data).folder
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)
    said = capsys.readouterr().err
    if trouble.endswith("no answer"):
        assert said.count("Weights & Biases did not finish in time") == 1
    else:
        assert said.count("Weights & Biases failed and is disabled for the rest of the run") == 1


@pytest.mark.fault("D5", cases=1)
def test_a_full_disk_stops_only_the_tensorboard_file(
    straight: Path,
    data: TokenizedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    SummaryWriter: Any = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    trigger = after(5, raises(DiskFullError("disk full: nothing free.")))
    flush = SummaryWriter.flush
    monkeypatch.setattr(SummaryWriter, "flush", lambda self: (trigger(), flush(self))[1])
    out = start_run(tiny.run("tracking.tensorboard=true", steps=STEPS), tmp_path / "run", data).folder
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)
    assert capsys.readouterr().err.count("TensorBoard failed and is disabled for the rest of the run: disk full") == 1


def test_a_working_tracker_gets_every_row_and_resumes_the_same_run(
    straight: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", package)  # pyright: ignore[reportArgumentType]
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        start_run(tiny.run(*SETTINGS, steps=STEPS), out, data, callbacks=[StopAt(13)])
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)
    assert package.inits[0]["id"] == package.inits[1]["id"]
    told = {kind: [step for step, values in package.logged if f"{kind}/loss" in values] for kind in ("train", "final")}
    assert told == {"train": [1, *range(3, 20, 3)], "final": [20]}
    spread = [step for step, values in package.logged if any(name.startswith("gradients/") for name in values)]
    assert spread == list(range(4, 21, 4))
    assert [artifact.metadata["step"] for artifact in package.artifacts] == [20]
    assert Path(package.artifacts[0].files[0]).is_file()


@pytest.mark.fault("D8", cases=3)
@pytest.mark.parametrize("clock", ["set back", "set forward", "standing still"])
def test_clock_changes_affect_neither_training_nor_durations(
    clock: str, straight: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    begun = time.time()
    jumps: dict[str, Iterator[float]] = {
        "set back": (begun - 3600.0 * call for call in itertools.count()),
        "set forward": (begun + 86400.0 * call for call in itertools.count()),
        "standing still": itertools.repeat(begun),
    }
    monkeypatch.setattr(time, "time", lambda: next(jumps[clock]))
    out = start_run(tiny.run("training.log_every_steps=1", steps=STEPS), tmp_path / "run", data).folder
    rows = [row for row in _rows(out) if row["kind"] == "train"]
    assert [row["loss"] for row in rows][2::3] == [row["loss"] for row in _rows(straight) if row["kind"] == "train"][1:]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 3600
    assert all(0 <= row["step_seconds_p1"] <= row["step_seconds_p99"] < 3600 for row in rows)
    assert all(0 <= row["data_wait_fraction"] <= 1 for row in rows)
    assert "-" not in "".join(line.split("tokens/s")[-1] for line in capsys.readouterr().err.splitlines())


def _rows(out: Path) -> list[dict[str, Any]]:
    return read_rows(out / "metrics.jsonl")
