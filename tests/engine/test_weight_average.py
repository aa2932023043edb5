"""Tests that both engines average the weights by the same rule, and that the training does not depend on it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fabella.engine.engine import Engine, State, create_engine
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import CheckpointError
from fabella.run_config.run import RunConfig
from tests.engine import test_engine_jax as tiny
from tests.engine.test_engine_jax import train

EMA = "optimizer.average={kind: ema, decay: 0.7}"
MEAN = "optimizer.average={kind: mean, start: 2}"
SKIP = "training.on_nonfinite.kind=skip"
STEPS = range(6)
# Of the average after six steps in float32, compared with float64.
ROUNDING = 1e-6

engines = pytest.mark.parametrize("engine", ["torch", "jax"])
kinds = pytest.mark.parametrize("average", [EMA, MEAN], ids=["ema", "mean"])
Arrays = dict[str, NDArray[Any]]


def run(engine: str, *overrides: str) -> RunConfig:
    return tiny.run(*overrides, engine=engine)


def equal(first: State, second: State) -> bool:
    """Return whether two states and their averages are equal bit for bit."""
    return tiny.equal_states(first, second) and arrays_equal(first.average, second.average)


def arrays_equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def weights_after_each_step(engine: Engine) -> list[Arrays]:
    return [{n: np.array(w, np.float64) for n, w in train(engine, seed).state().weights.items()} for seed in STEPS]


@engines
def test_the_mean_is_that_of_the_weights_after_its_start(engine: str) -> None:
    trained = create_engine(run(engine, MEAN))
    weights = weights_after_each_step(trained)[2:]
    state = trained.state()
    assert (state.scalars["averaged"], state.scalars["average_start"]) == (4, 2)
    for name, average in state.average.items():
        assert average.dtype == np.float32
        np.testing.assert_allclose(average, np.mean([w[name] for w in weights], axis=0), atol=ROUNDING, err_msg=name)


@engines
def test_the_moving_average_has_a_decay_that_rises_to_that_of_the_config(engine: str) -> None:
    trained = create_engine(run(engine, EMA))
    weights = weights_after_each_step(trained)
    expected = {name: np.zeros_like(array) for name, array in weights[0].items()}
    for count, after in enumerate(weights):
        decay = min(0.7, count / (count + 9))
        expected = {name: decay * average + (1 - decay) * after[name] for name, average in expected.items()}
    state = trained.state()
    assert state.scalars["averaged"] == len(STEPS)
    for name, average in state.average.items():
        np.testing.assert_allclose(average, expected[name], atol=ROUNDING, err_msg=name)


def test_the_decay_reaches_that_of_the_config() -> None:
    trained = create_engine(run("torch", "optimizer.average={kind: ema, decay: 0.2}"))
    weights = weights_after_each_step(trained)
    before = create_engine(run("torch", "optimizer.average={kind: ema, decay: 0.2}"))
    train(before, *STEPS[:-1])
    average, name = before.state().average, "norm.weight"
    expected = 0.2 * average[name] + 0.8 * weights[-1][name]
    np.testing.assert_allclose(trained.state().average[name], expected, atol=ROUNDING)


@engines
@kinds
@pytest.mark.parametrize("micro", [4, 8], ids=["accumulated", "at once"])
def test_an_average_does_not_change_the_training_by_a_bit(engine: str, average: str, micro: int) -> None:
    size = f"training.micro_batch_size={micro}"
    plain, averaged = (train(create_engine(run(engine, size, *extra)), *STEPS) for extra in ((), (average,)))
    assert arrays_equal(plain.state().weights, averaged.state().weights)
    assert arrays_equal(plain.state().optimizer_state, averaged.state().optimizer_state)
    assert plain.state().average == {}


@engines
@kinds
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_restored_engine_continues_the_average_bit_for_bit(engine: str, average: str, stop: int) -> None:
    uninterrupted = train(create_engine(run(engine, average)), *STEPS)
    saved = train(create_engine(run(engine, average)), *STEPS[:stop]).state()
    resumed = train(create_engine(run(engine, average)), 9)  # a state that is replaced
    resumed.restore(saved)
    assert equal(train(resumed, *STEPS[stop:]).state(), uninterrupted.state())


@pytest.mark.parametrize(("first", "second"), [("torch", "jax"), ("jax", "torch")])
def test_the_average_of_one_engine_continues_in_the_other(first: str, second: str) -> None:
    stayed, changed = (train(create_engine(run(first, EMA)), 0, 1, 2) for _ in range(2))
    other = create_engine(run(second, EMA))
    other.restore(changed.state())
    averages = [train(engine, 3, 4, 5).state().average for engine in (stayed, other)]
    for name, average in averages[0].items():
        np.testing.assert_allclose(averages[1][name], average, atol=tiny.ACCUMULATION_TOLERANCE)


@engines
def test_a_skipped_step_leaves_the_average(engine: str) -> None:
    trained = train(create_engine(run(engine, EMA, SKIP)), 0, 1)
    before = trained.state()
    with_nan = {name: np.full_like(array, np.nan) for name, array in before.weights.items()}
    trained.restore(dataclasses.replace(before, weights=with_nan))
    after = train(trained, 2).state()
    assert (after.scalars["skipped_steps"], after.scalars["averaged"]) == (1, 2)
    assert arrays_equal(after.average, before.average)


def test_on_a_gpu_the_decision_to_skip_is_not_waited_for() -> None:
    """There, the average is updated by a share of 0."""
    trained = train(create_engine(run("torch", EMA)), 0, 1)
    assert isinstance(trained, TorchEngine)
    before = trained.state()
    trained.optimizer.average.update(3, torch.tensor(False))
    assert equal(trained.state(), before)


@engines
def test_frozen_parameters_have_no_average(engine: str) -> None:
    state = train(create_engine(run(engine, EMA, "training.freeze=[embedding.*]")), 0, 1).state()
    assert state.average.keys() == state.weights.keys() - {"embedding.weight"}


@engines
def test_the_average_can_be_evaluated_without_changing_the_training(engine: str) -> None:
    trained, untouched = (train(create_engine(run(engine, EMA)), *STEPS) for _ in range(2))
    state = trained.state()
    reference = create_engine(run(engine))
    reference.restore(dataclasses.replace(state, weights={**state.weights, **state.average}))
    assert trained.has_average()
    with trained.using_average():
        losses = trained.losses(tiny.batch(7))
    assert np.array_equal(losses, reference.losses(tiny.batch(7)))
    assert not np.array_equal(losses, trained.losses(tiny.batch(7)))
    assert equal(train(trained, 6, 7).state(), train(untouched, 6, 7).state())


@engines
def test_before_it_begins_there_is_no_average(engine: str) -> None:
    trained = train(create_engine(run(engine, MEAN)), 0, 1)
    assert not trained.has_average()
    assert (trained.state().average, trained.state().scalars["averaged"]) == ({}, 0)
    assert not create_engine(run(engine)).has_average()


@engines
@pytest.mark.parametrize("other", [MEAN.replace("2", "3"), EMA], ids=["another start", "another kind"])
def test_another_kind_or_start_begins_anew(engine: str, other: str) -> None:
    saved = train(create_engine(run(engine, MEAN)), 0, 1, 2, 3).state()
    resumed = create_engine(run(engine, other))
    resumed.restore(saved)
    state = train(resumed, 4).state()
    assert state.scalars["averaged"] == 1
    assert arrays_equal(state.average, state.weights)


@engines
def test_another_decay_continues(engine: str) -> None:
    saved = train(create_engine(run(engine, EMA)), 0, 1).state()
    resumed = create_engine(run(engine, "optimizer.average={kind: ema, decay: 0.9}"))
    resumed.restore(saved)
    assert train(resumed, 2).state().scalars["averaged"] == 3


@engines
def test_a_state_without_its_average_is_refused(engine: str) -> None:
    saved = train(create_engine(run(engine, EMA)), 0, 1).state()
    with pytest.raises(CheckpointError, match="no average of the weights, but 2 of them were averaged"):
        create_engine(run(engine, EMA)).restore(dataclasses.replace(saved, average={}))
    create_engine(run(engine)).restore(saved)  # a run that no longer averages does not need it
