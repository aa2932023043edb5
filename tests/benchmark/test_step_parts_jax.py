"""The JAX engine is measured beside a step written by hand and beside PyTorch, and all are the same network."""

import jax
import numpy as np
import pytest

from fabella.benchmark import training as benching
from fabella.benchmark.peers.models_jax import LOSSES
from fabella.benchmark.step_parts_jax import Baseline, names
from fabella.benchmark.training import BenchOptions, bench
from fabella.engine.engine_jax import build
from fabella.models.nn.layers_jax import Params
from fabella.models.parameters import initial_weights
from fabella.run_config.files import preset

SMALL = {
    "vocab_size": 61,
    "context_length": 16,
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "ffn_dim": 24,
    "dropout": 0.0,
}
# The same sums in another order.
TOLERANCE = 1e-5


@pytest.mark.parametrize("name", ["piny-37m", "tinystories-1m", "mingru-17m"])
def test_the_step_by_hand_is_of_the_same_network(name: str) -> None:
    config = preset(name).model
    values = config.model_dump()
    config = type(config).model_validate(values | {key: size for key, size in SMALL.items() if key in values})
    weights = initial_weights(config.parameters(), 1)
    windows = np.random.default_rng(1).integers(0, 61, (2, 13)).astype(np.int32)
    ours = jax.jit(lambda w: build(config).loss_sum(Params(w), windows[:, :-1], windows[:, 1:]) / 24)(weights)
    assert float(jax.jit(LOSSES[config.family](config))(weights, windows)) == pytest.approx(float(ours), rel=TOLERANCE)


def test_all_contestants_take_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16)})
    result = bench(["storybook-1m"], BenchOptions(engine="jax", turns=2, device="cpu", memory=False))
    told = result["shapes"]["storybook-1m"]["contestants"]
    assert list(told) == names(preset("storybook-1m").model) == ["fabella", "plain jax", "fabella on torch"]
    assert len({one["parameters"] for one in told.values()}) == 1
    assert set(told["fabella"]["seconds"]) == {"data", "step"}
    assert result["settings"]["engine"] == "jax"


def test_a_contestant_learns() -> None:
    contestant = Baseline("fabella", preset("storybook-1m").model, (2, 16), "float32", "cpu")
    before = contestant.engine.state().weights["norm.weight"]
    assert contestant.step()["step"] > 0
    assert not np.array_equal(contestant.engine.state().weights["norm.weight"], before)
