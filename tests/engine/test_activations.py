"""Tests that activations have the same names and values in every family and both engines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fabella
from fabella.engine import activations_torch
from fabella.engine.activations import activations
from fabella.engine.build_model_jax import load_model as load_jax
from fabella.engine.build_model_torch import load_model as load_torch
from fabella.errors import CheckpointError, UsageError
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_config, family_names
from fabella.training.run import start_run
from tests.training import tiny

TOKENS = np.random.default_rng(3).integers(0, 40, (2, 9))
TOLERANCE = 2e-5  # two engines add in another order


def models(family: str) -> tuple[Any, Any]:
    """Return the tiny model of a family in both engines, with the same weights."""
    config: Any = family_config(family)
    config = config.tiny()
    weights = initial_weights(config.parameters(), 7)
    return load_torch(config, weights, "cpu"), load_jax(config, weights, "cpu")


@pytest.mark.parametrize("family", family_names())
def test_both_engines_have_the_same_activations(family: str) -> None:
    torch_model, jax_model = models(family)
    ours, theirs = (activations(model, TOKENS) for model in (torch_model, jax_model))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(np.asarray(theirs[name]), value.numpy(), atol=TOLERANCE, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("family", family_names())
def test_the_names_are_those_of_the_documentation(family: str) -> None:
    model, _ = models(family)
    recorded = activations(model, TOKENS)
    blocks = range(len(model.blocks))
    assert {"embedding", "logits"} <= recorded.keys()
    for block in blocks:
        assert {f"blocks.{block}.{part}" for part in ("residual", "mixer", "mlp")} <= recorded.keys()
        recurrent = f"blocks.{block}.gate" in recorded
        assert (f"blocks.{block}.attention" in recorded) != recurrent
        assert (f"blocks.{block}.state" in recorded) == recurrent
    torch.testing.assert_close(recorded["logits"], model(torch.from_numpy(TOKENS)))


@pytest.mark.parametrize("family", [name for name in family_names() if name not in ("mingru", "modern")])
def test_the_residual_stream_is_the_sum_of_what_the_blocks_add(family: str) -> None:
    recorded = activations(models(family)[0], TOKENS)
    before = recorded["embedding"]
    for block in range(len([name for name in recorded if name.endswith(".residual")])):
        after = recorded[f"blocks.{block}.residual"]
        added = recorded[f"blocks.{block}.mixer"] + recorded[f"blocks.{block}.mlp"]
        torch.testing.assert_close(after, before + added)
        before = after


@pytest.mark.parametrize("family", [name for name in family_names() if "mingru" not in name])
def test_attention_weights_are_causal_and_sum_to_one(family: str) -> None:
    recorded = activations(models(family)[0], TOKENS, names=["blocks.*.attention"])
    assert recorded
    for weights in recorded.values():
        assert weights.shape[-2:] == (9, 9)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert not weights.triu(1).any()


@pytest.mark.parametrize("family", ["mingru", "mingru_plain", "hybrid"])
def test_the_states_of_mingru_follow_from_gates_and_candidates(family: str) -> None:
    recorded = activations(models(family)[0], TOKENS)
    gates = [name for name in recorded if name.endswith(".gate")]
    assert gates
    for name in gates:
        z, new, states = (recorded[name.replace("gate", part)] for part in ("gate", "candidate", "state"))
        state = torch.zeros_like(states[:, 0])
        for step in range(states.shape[1]):
            state = state + z[:, step] * (new[:, step] - state)
            torch.testing.assert_close(states[:, step], state)


def test_a_model_can_be_called_as_in_transformers(tmp_path: Path) -> None:
    run = tiny.run(steps=1)
    folder = start_run(run, tmp_path / "run", tiny.prepared(tmp_path, run)).path
    for engine in ("torch", "jax"):
        model = fabella.load(folder, engine=engine).model
        tokens = torch.from_numpy(TOKENS) if engine == "torch" else TOKENS
        output = model(tokens, output_hidden_states=True, output_attentions=True)
        assert len(output.hidden_states) == 3
        assert [tuple(weights.shape) for weights in output.attentions] == [(2, 2, 9, 9)] * 2
        np.testing.assert_allclose(np.asarray(output.logits), np.asarray(model(tokens)), rtol=1e-4, atol=1e-5)
        assert model(tokens, output_attentions=True).hidden_states is None


def test_after_a_failed_call_a_model_has_no_hooks_left(tmp_path: Path) -> None:
    model, _ = models("llama")
    activations_torch.accept_output_options(model)
    too_long = torch.zeros(1, model.config.context_length + 1, dtype=torch.int64)
    with pytest.raises(UsageError):
        model(too_long, output_hidden_states=True)
    assert not any(module._forward_hooks for module in model.blocks.modules())
    assert model(torch.from_numpy(TOKENS)).shape == (2, 9, model.config.vocab_size)


def test_hooks_change_what_a_model_computes() -> None:
    model, _ = models("llama")
    tokens = torch.from_numpy(TOKENS)
    before = model(tokens)

    def zero(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output * 0

    handle = model.blocks[0].attention.register_forward_hook(zero)
    changed = model(tokens)
    assert not activations(model, TOKENS)["blocks.0.mixer"].any()
    handle.remove()
    assert not torch.equal(before, changed)
    assert torch.equal(model(tokens), before)


def test_patterns_choose_activations_and_an_unknown_one_is_refused() -> None:
    model, jax_model = models("llama")
    for each in (model, jax_model):
        assert list(activations(each, TOKENS, names=["blocks.0.*", "logits"])) == [
            "blocks.0.attention", "blocks.0.mixer", "blocks.0.mlp", "blocks.0.residual", "logits",
        ]  # fmt: skip
        with pytest.raises(UsageError, match=r"No activation has a name like 'blocks\.9\.mlp'"):
            activations(each, TOKENS, names=["blocks.9.mlp"])


def test_metrics_are_columns_of_equal_length(tmp_path: Path) -> None:
    run = tiny.run(steps=12)
    folder = start_run(run, tmp_path / "run", tiny.prepared(tmp_path, run)).path
    train, validation = fabella.read_metrics(folder), fabella.read_metrics(folder, "validation")
    assert train["step"].tolist() == [1, 3, 6, 9, 12]
    assert {len(column) for column in train.values()} == {5}
    assert np.isnan(train["tokens_per_second"][0])
    assert validation["step"].tolist() == [7, 12]
    assert fabella.read_metrics(folder, "sample")["text"].dtype == object
    with pytest.raises(UsageError, match="no rows of kind 'valid'"):
        fabella.read_metrics(folder, "valid")
    with pytest.raises(CheckpointError, match="No run directory"):
        fabella.read_metrics(tmp_path)
