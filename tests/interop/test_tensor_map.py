"""Tests of names and layouts of weights: packing and unpacking are inverse, and what does not fit is named."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import CheckpointError, NumericsError
from fabella.interop.architectures.architecture import all_architectures
from fabella.interop.tensor_map import linear_rows, pack, row, unpack
from fabella.models.parameters import Normal, ParameterSpec, initial_weights, linear
from fabella.models.registry import tiny_config

INIT = Normal(1.0)


@given(heads=st.integers(1, 4), pairs=st.integers(1, 3), inputs=st.integers(1, 5), bias=st.booleans())
def test_every_layout_is_unpacked_to_the_same_weights(heads: int, pairs: int, inputs: int, bias: bool) -> None:
    size = heads * 2 * pairs
    names = ("query", "key", "value")
    table = {k: v for name in names for k, v in linear(name, size, inputs, INIT, bias=bias).items()}
    weights = initial_weights(table, 3)
    layouts = (
        linear_rows("joined", *names, bias=bias),
        linear_rows("joined", *names, bias=bias, transposed=True),
        linear_rows("joined", *names, bias=bias, per_head=heads),
        [item for name in names for item in linear_rows(name, name, bias=bias, rotary_heads=heads)],
    )
    for rows in layouts:
        result = unpack(rows, pack(rows, weights), table, where="x")
        assert list(result) == list(table)
        assert all(np.array_equal(result[name], weights[name]) for name in table)


def test_rotated_dimensions_become_neighbors() -> None:
    weights = {"query.weight": np.arange(8, dtype=np.float32)[:, None]}
    packed = pack([row("q", "query.weight", rotary_heads=2)], weights)["q"]
    assert packed[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("module", list(all_architectures()), ids=lambda module: module.__name__.rpartition(".")[2])
def test_an_architecture_names_every_weight_once_and_reads_its_own_config(module: Any) -> None:
    for family in module.FAMILIES:
        config = tiny_config(family)
        assert sorted(name for item in module.rows(config) for name in item.ours) == sorted(config.parameters())
        values = module.to_config(config)
        if values is None:  # a combination of features that no class has
            continue
        again = module.from_config(values)
        assert again.parameters().keys() == config.parameters().keys()
        assert {n: p.shape for n, p in again.parameters().items()} == {
            n: p.shape for n, p in config.parameters().items()
        }


@pytest.mark.fault("E16", cases=4)
@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "nan"])
def test_a_tensor_that_does_not_fit_is_named(fault: str) -> None:
    table = {"a.weight": ParameterSpec(shape=(2, 3), init=INIT, decay=True)}
    tensors = {"x": np.ones((2, 3), np.float32)}
    if fault == "missing":
        tensors = {}
    elif fault == "unknown":
        tensors["other"] = np.ones(1, np.float32)
    elif fault == "shape":
        tensors["x"] = np.ones((3, 2), np.float32)
    else:
        tensors["x"][1, 1] = np.nan
    expected = NumericsError if fault == "nan" else CheckpointError
    words = {"missing": "x is missing", "unknown": "other is not a tensor", "shape": "x is 3 x 2, not 2 x 3"}
    with pytest.raises(expected, match=words.get(fault, "not finite")):
        unpack([row("x", "a.weight")], tensors, table, where="model.safetensors")
