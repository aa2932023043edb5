"""Tests that a gradient norm spike is logged once, at its first step, whenever the results are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine_torch import TorchEngine
from fabella.tracking.console import ConsoleTracker
from fabella.training.callbacks.cadence import every_steps
from fabella.training.callbacks.grad_spikes import MIN_NORMS, WINDOW, GradNormSpikes
from fabella.training.loop import Progress
from fabella.training.run import start_run
from tests.training import tiny


class Result:
    def __init__(self, norm: float) -> None:
        self.norm, self.readings = norm, 0

    def read(self) -> dict[str, float]:
        self.readings += 1
        return {"loss": 1.0, "grad_norm": self.norm}


def spike_rows(norms: list[float], *, due: int = 10**6, stops: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Return the rows for these norms, with the callback state saved and restored at each of ``stops``."""
    rows: list[Any] = []
    spikes = GradNormSpikes(rows.append, factor=5.0, rows_due=[every_steps(due)])
    for step, norm in enumerate(norms, start=1):
        spikes(Progress(step), Result(norm))
        if step in stops:
            spikes = GradNormSpikes(
                rows.append, factor=5.0, rows_due=[every_steps(due)], norms=str(spikes.state()["gradient_norms"])
            )
    spikes.read_all()
    return rows


STEADY = [1.0 + 0.1 * (step % 3) for step in range(MIN_NORMS)]


@pytest.mark.fault("D3", cases=1)
def test_the_first_step_of_a_spike_is_logged_with_the_median() -> None:
    assert spike_rows([*STEADY, 5.4, 5.6, 9.0, 1.0, 6.0]) == [
        {"kind": "grad_spike", "step": MIN_NORMS + 2, "grad_norm": 5.6, "median": 1.1},
        {"kind": "grad_spike", "step": MIN_NORMS + 5, "grad_norm": 6.0, "median": 1.1},
    ]


def test_few_steps_have_no_median_and_a_lasting_level_is_no_spike_after_a_while() -> None:
    assert spike_rows([*STEADY[:-1], 50.0]) == []
    assert len(spike_rows([*STEADY, *[50.0] * 60, 1.0, 50.0])) == 1


def test_skipped_steps_do_not_change_the_median() -> None:
    assert spike_rows([*STEADY, *[float("nan")] * 60, 50.0])[0]["median"] == 1.1


@pytest.mark.parametrize("stops", [(5,), (MIN_NORMS,), (MIN_NORMS + 2, MIN_NORMS + 3)], ids=str)
def test_resumed_spike_detection_logs_the_same(stops: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    norms = [float(np.float32(norm)) for norm in np.exp(random.normal(0, 1.5, 200))]
    assert spike_rows(norms, stops=stops) == spike_rows(norms, due=7) != []


def test_results_are_read_only_when_a_row_is_due_or_the_window_is_full() -> None:
    results = [Result(1.0) for _ in range(WINDOW + 1)]
    spikes = GradNormSpikes(lambda row: None, factor=5.0, rows_due=[every_steps(WINDOW * 2)])
    for step, result in enumerate(results[:-1], start=2):
        assert not any(result.readings for result in results)
        spikes(Progress(step), result)
    assert [result.readings for result in results] == [1] * WINDOW + [0]


@pytest.mark.fault("D3", cases=1)
def test_a_spike_is_in_the_metrics_and_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data: TokenizedDataset = tiny.prepared(tmp_path)
    update = vars(TorchEngine)["_update"]

    def update_with_spike(self: TorchEngine, loss: Any, lr: float) -> Any:
        if self.steps == 29:
            for parameter in self.model.parameters():
                parameter.grad *= 100
        return update(self, loss, lr)

    monkeypatch.setattr(TorchEngine, "_update", update_with_spike)
    start_run(tiny.run(), tmp_path / "run", data, device="cpu")
    rows = [row for row in tiny.metrics(tmp_path / "run") if row["kind"] == "grad_spike"]
    assert [row["step"] for row in rows] == [30]
    assert rows[0]["grad_norm"] > 5 * rows[0]["median"]
    assert "step 30: gradient norm spike: " in capfd.readouterr().err


def test_the_console_line_has_the_ratio_to_the_median(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleTracker(10, 1.0)({"kind": "grad_spike", "step": 1200, "grad_norm": 12.34, "median": 1.5})
    assert capsys.readouterr().err == "step 1,200: gradient norm spike: 12.3, 8.2 times the median\n"
