"""Tests of the loss plot that is redrawn while a run trains."""

from pathlib import Path
from typing import Any

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.errors import StorageError
from fabella.training.callbacks import build, plots
from fabella.training.callbacks.plots import RedrawLossPlot
from fabella.training.run import start_run
from tests.training import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def train(data: TokenizedDataset, out: Path, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    """Train with plots at most every ``seconds``, on a clock that advances by one second at each look."""
    ticks = iter(range(100_000))

    def redraw(*arguments: Any, **options: Any) -> RedrawLossPlot:
        return RedrawLossPlot(*arguments, **options, interval_seconds=seconds, clock=lambda: float(next(ticks)))

    monkeypatch.setattr(plots, "PAUSE_FACTOR", 0)
    monkeypatch.setattr(build, "RedrawLossPlot", redraw)
    start_run(tiny.run("validation.every_steps=4", steps=13), out, data, device="cpu")


def test_the_plot_is_current_after_each_validation_each_epoch_and_the_last_step(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def count_rows(run_dir: Path) -> None:
        drawn.append(max(row["step"] for row in tiny.metrics(run_dir)))

    epochs = plots.every_epochs(1.0, 5 * 16, tiny.run().training)
    monkeypatch.setattr(plots, "every_epochs", lambda *_: epochs)
    monkeypatch.setattr(plots, "plot_loss", count_rows)
    train(data, tmp_path / "run", monkeypatch, seconds=0.0)
    assert drawn == [4, 4, 8, 9, 12, 13]  # after steps 4, 5 (an epoch), 8, 10 (an epoch), 12, 13; rows every 3 steps


def test_a_short_training_draws_nothing_and_a_pause_is_kept(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(plots, "plot_loss", drawn.append)
    train(data, tmp_path / "short", monkeypatch, seconds=1000.0)
    assert drawn == []
    train(data, tmp_path / "long", monkeypatch, seconds=10.0)  # seven or more of its thirteen steps are too early
    assert 1 <= len(drawn) <= 2


def test_a_real_plot_is_written_while_training(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, tmp_path / "run", monkeypatch, seconds=8.0)
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_fails_is_reported_once_and_the_training_continues(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(run_dir: Path) -> None:
        raise StorageError("no space for loss.png.")

    monkeypatch.setattr(plots, "plot_loss", fail)
    train(data, tmp_path / "run", monkeypatch, seconds=0.0)
    lines = [line for line in capfd.readouterr().err.splitlines() if "loss plot" in line]
    assert [line.partition(": no space")[0] for line in lines] == [
        "warning: the loss plot could not be drawn at step 4"
    ]
    assert tiny.metrics(tmp_path / "run")[-1]["step"] == 13
