"""Tests of the parameter table: its rows, counts and initial weights."""

import numpy as np
import pytest

from fabella.models.parameters import (
    Constant,
    HalfLives,
    Normal,
    ParameterSpec,
    Uniform,
    count,
    count_non_embedding,
    embedding,
    initial_weights,
    linear,
    norm,
    prefixed,
)

TABLE = {
    **embedding("embedding", 100, 8, Normal(1.0)),
    **linear("mix", 40, 8, Normal(0.02), bias=True),
    **linear("even", 400, 8, Uniform(0.5)),
    **norm("norm", 8),
}


def test_rows_have_initialization_and_weight_decay() -> None:
    assert linear("a", 3, 5, Normal(0.1), bias=True) == {
        "a.weight": ParameterSpec(shape=(3, 5), init=Normal(0.1), decay=True),
        "a.bias": ParameterSpec(shape=(3,), init=Constant(0.0), decay=False),
    }
    assert norm("n", 4, bias=True) == {
        "n.weight": ParameterSpec(shape=(4,), init=Constant(1.0), decay=False),
        "n.bias": ParameterSpec(shape=(4,), init=Constant(0.0), decay=False),
    }
    assert embedding("e", 7, 2, Normal(1.0))["e.weight"].embedding
    assert list(prefixed("blocks.3", norm("n", 4))) == ["blocks.3.n.weight"]


def test_counts() -> None:
    assert count(TABLE) == 800 + 320 + 40 + 3200 + 8
    assert count_non_embedding(TABLE) == count(TABLE) - 800
    assert count({}) == 0


def test_initial_weights_follow_their_distribution() -> None:
    weights = initial_weights(TABLE, seed=1)
    assert {name: array.shape for name, array in weights.items()} == {n: p.shape for n, p in TABLE.items()}
    assert all(array.dtype == np.float32 for array in weights.values())
    assert weights["embedding.weight"].std() == pytest.approx(1.0, rel=0.1)  # 800 draws
    assert weights["mix.weight"].std() == pytest.approx(0.02, rel=0.15)  # 320 draws
    assert np.abs(weights["even.weight"]).max() <= 0.5
    assert weights["even.weight"].std() == pytest.approx(0.5 / 3**0.5, rel=0.05)  # 3,200 draws
    assert (weights["mix.bias"] == 0).all()
    assert (weights["norm.weight"] == 1).all()


def test_half_lives_are_those_of_a_state_with_these_gates() -> None:
    table = {"gate.bias": ParameterSpec(shape=(9,), init=HalfLives(2.0, 512.0), decay=False)}
    kept = 1 / (1 + np.exp(initial_weights(table, 1)["gate.bias"].astype(np.float64)))  # 1 − σ(bias)
    assert np.log(0.5) / np.log(kept) == pytest.approx(2.0 ** np.arange(1, 10), rel=1e-4)


def test_a_weight_depends_only_on_its_name_and_the_seed() -> None:
    first, again, other = initial_weights(TABLE, 1), initial_weights(TABLE, 1), initial_weights(TABLE, 2)
    fewer = initial_weights(linear("mix", 40, 8, Normal(0.02)), 1)
    assert all((first[name] == again[name]).all() for name in TABLE)
    assert (first["mix.weight"] == fewer["mix.weight"]).all()
    assert (first["mix.weight"] != other["mix.weight"]).any()
