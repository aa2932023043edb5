"""Tests that a checkpoint is validated against the parameter table and the state spec of the optimizer."""

import json
from typing import Any

import numpy as np
import pytest

from fabella.errors import CheckpointError
from fabella.models.parameters import block_matrices
from fabella.optim import muon
from fabella.runs.checkpoint import Checkpoint, check
from fabella.runs.checkpoint_validation import checked_moments, moment_kinds, parse_state
from fabella.runs.run_dir import FORMAT
from tests.runs.stub import SPEC, TABLE, checkpoint

VALID: dict[str, Any] = {
    "format": FORMAT,
    "step": 120,
    "optimizer_state": ["first"],
    "scalars": {"step": 120},
    "progress": {},
}
FIRST = next(iter(TABLE))


def with_weights(**changes: Any) -> Checkpoint:
    state = checkpoint(1).state
    weights = {**state.weights, **changes}
    return Checkpoint(type(state)({n: a for n, a in weights.items() if a is not None}, state.optimizer_state, {}), {})


def test_a_checkpoint_of_this_model_is_valid() -> None:
    check(checkpoint(1), TABLE, SPEC)


def test_the_first_five_differences_are_named() -> None:
    wrong = with_weights(**dict.fromkeys(list(TABLE)[:7]))
    with pytest.raises(CheckpointError) as caught:
        check(wrong, TABLE, SPEC, where="step-00000120")
    named = "; ".join(f"{name} is missing" for name in list(TABLE)[:5])
    assert str(caught.value) == f"step-00000120/model.safetensors does not match the model: {named}; and 2 more."


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"surprise": np.zeros(1, np.float32)}, "surprise is not a parameter of this model"),
        ({"x\x1b[2J\n" + "y" * 10_000: np.zeros(1, np.float32)}, "x\\x1b[2J\\nyyy"),
        ({FIRST: np.zeros((2, 256), np.float32)}, "embedding.weight is 2 x 256, not 256 x 2"),
        ({FIRST: np.zeros((), np.float32)}, "embedding.weight is a scalar, not 256 x 2"),
        ({FIRST: np.zeros((256, 2), np.float64)}, "embedding.weight is float64, not float32"),
    ],
)
def test_each_kind_of_difference_is_reported(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(with_weights(**changes), TABLE, SPEC)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_moments_are_complete_or_refused() -> None:
    state = checkpoint(1).state
    incomplete = {name: array for name, array in state.optimizer_state.items() if name != f"second.{FIRST}"}
    with pytest.raises(CheckpointError, match=rf"optimizer.safetensors does not match the model: second.{FIRST} is"):
        check(Checkpoint(type(state)(state.weights, incomplete, {}), {}), TABLE, SPEC)
    check(Checkpoint(type(state)(state.weights, {}, {}), {}), TABLE, SPEC)  # an optimizer without a state


def test_the_optimizers_state_spec_decides_which_moments_a_matrix_has() -> None:
    state = checkpoint(1).state
    matrices = block_matrices(TABLE)
    of_muon = {n: a for n, a in state.optimizer_state.items() if n.removeprefix("second.") not in matrices}
    muon_spec = muon.state_spec(TABLE, muon.Config(lr=1e-2))
    kinds = ["first", "second"]
    assert moment_kinds(of_muon) == moment_kinds(state.optimizer_state) == kinds
    assert list(checked_moments(of_muon, muon_spec, where="it", kinds=kinds)) == list(muon_spec)
    for moments, spec in ((of_muon, SPEC), (state.optimizer_state, muon_spec)):
        with pytest.raises(CheckpointError, match=rf"second.{matrices[0]} is "):
            checked_moments(moments, spec, where="it", kinds=kinds)
    with_one_more_moment = {**of_muon, f"second.{matrices[0]}": state.optimizer_state[f"second.{matrices[0]}"]}
    with pytest.raises(CheckpointError, match=rf"second.{matrices[1]} is missing"):
        checked_moments(with_one_more_moment, SPEC, where="it")
    with pytest.raises(CheckpointError, match=rf"first.{FIRST} is missing"):
        checked_moments(
            {n: a for n, a in of_muon.items() if n.startswith("second.")}, muon_spec, where="it", kinds=kinds
        )


def test_a_valid_state_is_parsed() -> None:
    assert parse_state(json.dumps(VALID).encode(), step=120, where="state.json") == VALID


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "damaged: not JSON"),
        (b"[" * 100_000, "damaged: not JSON"),
        (b"[]", "it has no format number"),
        (b'{"format": "1"}', "it has no format number"),
        (
            json.dumps({**VALID, "format": FORMAT + 1}).encode(),
            "was written in format 3; this version of Fabella reads",
        ),
        (
            json.dumps({**VALID, "format": FORMAT - 1}).encode(),
            "was written in format 1; this version of Fabella reads",
        ),
        (json.dumps({**VALID, "step": 100}).encode(), "is of step 100, not 120"),
        (json.dumps({**VALID, "optimizer_state": "first"}).encode(), "optimizer_state, scalars or progress is missing"),
        (json.dumps({**VALID, "optimizer_state": [1]}).encode(), "optimizer_state, scalars or progress is missing"),
        (json.dumps({**VALID, "scalars": {"step": "1"}}).encode(), "optimizer_state, scalars or progress is missing"),
        (json.dumps({**VALID, "scalars": {"step": True}}).encode(), "optimizer_state, scalars or progress is missing"),
        (
            json.dumps({**VALID, "scalars": {"scale": float("nan")}}).encode(),
            "optimizer_state, scalars or progress is missing",
        ),
        (json.dumps({**VALID, "progress": {"a": []}}).encode(), "optimizer_state, scalars or progress is missing"),
        (json.dumps({"format": FORMAT, "step": 120}).encode(), "optimizer_state, scalars or progress is missing"),
    ],
)
def test_a_state_with_another_structure_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        parse_state(data, step=120, where="step-00000120/state.json")
