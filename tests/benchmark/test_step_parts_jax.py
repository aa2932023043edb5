"""Tests that the benchmark measures training steps of the JAX engine next to the PyTorch engine."""

import numpy as np
import pytest

from fabella.benchmark import training as benching
from fabella.benchmark.step_parts_jax import create_baseline
from fabella.benchmark.training import BenchOptions, bench
from fabella.run_config.files import preset


def test_both_engines_take_steps_of_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16)})
    result = bench(["storybook-1m"], BenchOptions(engine="jax", rounds=2, device="cpu", memory=False))
    baselines = result["shapes"]["storybook-1m"]["baselines"]
    assert list(baselines) == ["fabella", "fabella on torch"]
    assert len({baseline["parameters"] for baseline in baselines.values()}) == 1
    assert set(baselines["fabella"]["seconds"]) == {"data", "step"}
    assert result["settings"]["engine"] == "jax"


def test_a_step_changes_the_weights() -> None:
    baseline = create_baseline("fabella", preset("storybook-1m").model, (2, 16), "float32", "cpu")
    engine = baseline.train_step.engine
    before = engine.state().weights["norm.weight"]
    assert baseline.step()["step"] > 0
    assert not np.array_equal(engine.state().weights["norm.weight"], before)
