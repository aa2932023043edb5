"""Tests that TensorBoard's reader reads the event files."""

from pathlib import Path
from typing import Any

import pytest

from fabella.engine.engine import Histogram
from fabella.tracking.tracker import scalars
from tests.runs import stub

loader: Any = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
tensorboard_torch: Any = pytest.importorskip("fabella.tracking.tensorboard_torch")

ROWS = [
    {"kind": "train", "step": 1, "loss": 2.5, "lr": 0.001},
    {"kind": "sample", "step": 1, "prompt": "Once", "text": " upon…"},
    {"kind": "histograms", "step": 2, "histograms": {"weights/a": Histogram(-1.0, 1.0, (1, 3))}},
]


def read_events(path: Path) -> list[Any]:
    return list(loader.LegacyEventFileLoader(str(path)).Load())


def write_rows(run_dir: Path, step: int = 0) -> list[Any]:
    """Write ROWS and return the events of the new file."""
    before = set((run_dir / "tensorboard").glob("*"))
    tracker = tensorboard_torch.TensorBoardTracker(run_dir, stub.RUN, step=step)
    for row in ROWS:
        tracker(row)
    tracker.close()
    (new,) = set((run_dir / "tensorboard").glob("*")) - before
    return read_events(new)


def test_scalars_texts_and_histograms_can_be_read_back(tmp_path: Path) -> None:
    version, config, loss, lr, sample, histogram = write_rows(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert "family: llama" in config.summary.value[0].tensor.string_val[0].decode()
    values = {value.tag: value.simple_value for event in (loss, lr) for value in event.summary.value}
    assert values == pytest.approx({"train/loss": 2.5, "train/lr": 0.001})
    assert (loss.step, lr.step, histogram.step) == (1, 1, 2)
    assert sample.summary.value[0].tensor.string_val[0].decode() == "Once upon…"
    assert list(histogram.summary.value[0].histo.bucket) == [1.0, 3.0]
    assert list(histogram.summary.value[0].histo.bucket_limit) == [0.0, 1.0]


def test_a_row_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    tracker = tensorboard_torch.TensorBoardTracker(tmp_path, stub.RUN, step=0)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert len(read_events(path)) == 2
    tracker(ROWS[0])
    assert len(read_events(path)) == 4
    tracker.close()


def test_a_resumed_run_adds_a_file_that_purges_later_steps(tmp_path: Path) -> None:
    write_rows(tmp_path)
    events = write_rows(tmp_path, step=40)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    # SessionLog.START: TensorBoard discards the steps of older files from there on.
    assert [(event.session_log.status, event.step) for event in events if event.HasField("session_log")] == [(1, 41)]
    first_summary = next(index for index, event in enumerate(events) if event.HasField("summary"))
    assert any(event.HasField("session_log") for event in events[:first_summary])


def test_surrogates_are_escaped(tmp_path: Path) -> None:
    tracker = tensorboard_torch.TensorBoardTracker(tmp_path, stub.RUN, step=0)
    tracker({"kind": "sample", "step": 1, "prompt": "", "text": "\udc80"})
    tracker.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert read_events(path)[-1].summary.value[0].tensor.string_val[0] == rb"\udc80"


def test_only_numbers_are_scalars() -> None:
    assert scalars({"kind": "final", "step": 3, "loss": 1, "words": "…"}) == {"final/loss": 1.0}
