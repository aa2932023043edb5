"""Runs that differ only in their seed are averaged; others are not."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.report.curves import curves
from fabella.report.page import page
from fabella.report.run_history import RunHistory, names, read
from fabella.report.seeds import mean_line, seed_groups
from fabella.training.run import start_run
from tests.training import tiny

VALUES = st.lists(st.lists(st.floats(0.1, 10) | st.just(math.nan), min_size=4, max_size=4), min_size=2, max_size=5)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    directory = tmp_path_factory.mktemp("runs")
    start_run(tiny.run(steps=12), directory / "one", tiny.prepared(directory))
    return read(directory / "one")


def with_seed(history: RunHistory, seed: int, loss: float, **settings: object) -> RunHistory:
    """Return the history of a run with another seed, whose losses are higher by ``loss``."""
    run = history.run.model_copy(update={"seed": seed, **settings})
    validation = [{**row, "loss": row["loss"] + loss} for row in history.validation]
    return replace(history, run=run, path=Path(f"runs/s{seed}"), name=f"s{seed}", validation=validation, final=None)


def test_runs_of_several_seeds_are_grouped(history: RunHistory) -> None:
    other = history.run.optimizer.model_copy(update={"lr": 0.5})
    runs = [with_seed(history, 1, 0.0), with_seed(history, 3, 0.0, optimizer=other), with_seed(history, 2, 0.0)]
    assert [group.numbers for group in seed_groups(runs)] == [(0, 2)]
    assert seed_groups(runs[:2]) == []
    named = [with_seed(history, 1, 0.0, name="a"), with_seed(history, 2, 0.0, name="b")]
    assert len(seed_groups(named)) == 1, "the name of a config changes nothing"


@given(values=VALUES)
def test_the_mean_of_curves_is_that_of_the_steps_that_all_have(values: list[list[float]]) -> None:
    runs = [[(float(step), 10.0 * step, value) for step, value in enumerate(run)] for run in values]
    line = mean_line("mean", runs, 3)
    shared = [step for step in range(4) if all(math.isfinite(run[step]) for run in values)]
    if not shared:
        assert line is None
        return
    assert line is not None
    assert [x for x, _ in line.points] == pytest.approx([10.0 * step for step in shared])
    assert [y for _, y in line.points] == pytest.approx([statistics.fmean(run[s] for run in values) for s in shared])
    assert line.spread == pytest.approx([statistics.stdev(run[step] for run in values) for step in shared])


def test_the_report_shows_mean_and_deviation_over_seeds(history: RunHistory) -> None:
    runs = [with_seed(history, seed, loss) for seed, loss in ((1, 0.0), (2, 0.1), (3, 0.2))]
    loss = next(chart for chart in curves(runs, names(runs)) if chart.key == "loss")
    (mean,) = (line for line in loss.lines["step"] if line.style == "bold")
    assert mean.name == "mean ± deviation of 3 seeds (s1, s2, s3)"
    assert mean.spread == pytest.approx([0.1] * len(history.validation))
    text = page(runs)
    value = history.validation[-1]["loss"] + 0.1
    assert f'<td class="number">{value:.4f} ± 0.1000</td>' in text
    assert 'class="band run-0"' in text
    assert "<h2>Seeds</h2>" not in page(runs[:1])
