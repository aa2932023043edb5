"""Gradients that are suddenly large are told of once, whenever they are looked at."""

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


def told(norms: list[float], *, due: int = 10**6, stops: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a run of these norms, saved and gone on with at each of ``stops``."""
    found: list[Any] = []
    spikes = GradNormSpikes(found.append, factor=5.0, rows_due=[every_steps(due)])
    for step, norm in enumerate(norms, start=1):
        spikes(Progress(step), Result(norm))
        if step in stops:
            spikes = GradNormSpikes(
                found.append, factor=5.0, rows_due=[every_steps(due)], norms=str(spikes.state()["gradient_norms"])
            )
    spikes.read_all()
    return found


CALM = [1.0 + 0.1 * (step % 3) for step in range(MIN_NORMS)]


@pytest.mark.fault("D3", cases=1)
def test_the_first_step_of_a_spike_is_logged_with_the_median() -> None:
    assert told([*CALM, 5.4, 5.6, 9.0, 1.0, 6.0]) == [
        {"kind": "grad_spike", "step": MIN_NORMS + 2, "grad_norm": 5.6, "median": 1.1},
        {"kind": "grad_spike", "step": MIN_NORMS + 5, "grad_norm": 6.0, "median": 1.1},
    ]


def test_few_steps_make_no_median_and_a_level_that_stays_is_usual_in_the_end() -> None:
    assert told([*CALM[:-1], 50.0]) == []
    assert len(told([*CALM, *[50.0] * 60, 1.0, 50.0])) == 1


def test_a_step_that_was_left_out_has_no_norm() -> None:
    assert told([*CALM, *[float("nan")] * 60, 50.0])[0]["median"] == 1.1


@pytest.mark.parametrize("stops", [(5,), (MIN_NORMS,), (MIN_NORMS + 2, MIN_NORMS + 3)], ids=str)
def test_resumed_spike_detection_logs_the_same(stops: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    norms = [float(np.float32(norm)) for norm in np.exp(random.normal(0, 1.5, 200))]
    assert told(norms, stops=stops) == told(norms, due=7) != []


def test_no_result_is_read_before_a_row_is_due_but_none_is_forgotten() -> None:
    results = [Result(1.0) for _ in range(WINDOW + 1)]
    spikes = GradNormSpikes(lambda row: None, factor=5.0, rows_due=[every_steps(WINDOW * 2)])
    for step, result in enumerate(results[:-1], start=2):
        assert not any(result.readings for result in results)
        spikes(Progress(step), result)
    assert [result.readings for result in results] == [1] * WINDOW + [0]


@pytest.mark.fault("D3", cases=1)
def test_a_spike_stands_in_the_metrics_and_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data: TokenizedDataset = tiny.prepared(tmp_path)
    update = vars(TorchEngine)["_update"]

    def leaping(self: TorchEngine, loss: Any, lr: float) -> Any:
        if self.steps == 29:
            for parameter in self.model.parameters():
                parameter.grad *= 100
        return update(self, loss, lr)

    monkeypatch.setattr(TorchEngine, "_update", leaping)
    start_run(tiny.run(), tmp_path / "run", data, device="cpu")
    rows = [row for row in tiny.metrics(tmp_path / "run") if row["kind"] == "grad_spike"]
    assert [row["step"] for row in rows] == [30]
    assert rows[0]["grad_norm"] > 5 * rows[0]["median"]
    assert "step 30: gradient norm spike: " in capfd.readouterr().err


def test_the_line_says_how_many_times_the_usual(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleTracker(10, 1.0)({"kind": "grad_spike", "step": 1200, "grad_norm": 12.34, "median": 1.5})
    assert capsys.readouterr().err == "step 1,200: gradient norm spike: 12.3, 8.2 times the median\n"
