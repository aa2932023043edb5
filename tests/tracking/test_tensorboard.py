"""What is written for TensorBoard, read back with its own reader."""

from pathlib import Path
from typing import Any

import pytest

from fabella.engine.engine import Histogram
from fabella.tracking.tensorboard import TensorBoardTracker, numbers
from tests.runs import stub

loader: Any = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")

ROWS = [
    {"kind": "train", "step": 1, "loss": 2.5, "lr": 0.001},
    {"kind": "sample", "step": 1, "prompt": "Once", "text": " upon…"},
    {"kind": "histograms", "step": 2, "histograms": {"weights/a": Histogram(-1.0, 1.0, (1, 3))}},
]


def written(folder: Path, step: int = 0) -> list[Any]:
    file = TensorBoardTracker(folder, stub.RUN, step=step)
    for row in ROWS:
        file(row)
    file.close()
    return list(loader.LegacyEventFileLoader(str(file.path)).Load())


def test_scalars_texts_and_histograms_can_be_read_back(tmp_path: Path) -> None:
    version, config, train, sample, histogram = written(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert "family: llama" in config.summary.value[0].tensor.string_val[0].decode()
    assert {one.tag: one.simple_value for one in train.summary.value} == pytest.approx(
        {"train/loss": 2.5, "train/lr": 0.001}
    )
    assert (train.step, histogram.step) == (1, 2)
    assert sample.summary.value[0].tensor.string_val[0].decode() == "Once upon…"
    assert list(histogram.summary.value[0].histo.bucket) == [1.0, 3.0]
    assert list(histogram.summary.value[0].histo.bucket_limit) == [0.0, 1.0]


def test_going_on_adds_a_file_to_the_same_folder_and_takes_back_later_steps(tmp_path: Path) -> None:
    written(tmp_path)
    again = written(tmp_path, step=40)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert (again[1].session_log.status, again[1].step) == (1, 41)  # START: TensorBoard drops what it knew from there


def test_only_numbers_are_scalars() -> None:
    assert numbers({"kind": "final", "step": 3, "loss": 1, "words": "…"}) == {"final/loss": 1.0}
