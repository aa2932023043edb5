"""What a step keeps for the way back, by JAX's own tracing."""

import pytest

from fabella.engine.measure import memory_jax, memory_torch
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig


def run(*overrides: str) -> RunConfig:
    return load_config("storybook-1m", ["engine=jax", *overrides])


def test_activations_grow_with_the_windows() -> None:
    one, four = (memory_jax.activation_bytes(run(), windows, "cpu") for windows in (1, 4))
    assert 3.5 * one < four < 4.5 * one


def test_recomputing_keeps_less() -> None:
    kept = memory_jax.activation_bytes(run(), 2, "cpu")
    assert memory_jax.activation_bytes(run("training.gradient_checkpointing=blocks"), 2, "cpu") < kept / 2


def test_it_is_of_the_size_that_pytorch_keeps() -> None:
    """Neither keeps what attention weighs with; more of what lies between two products is kept by JAX."""
    ours, theirs = memory_jax.activation_bytes(run(), 2, "cpu"), memory_torch.activation_bytes(run(), 2, "cpu")
    assert 0.5 * theirs < ours < 2 * theirs


def test_logits_are_held_in_stretches() -> None:
    few, many = memory_jax.loss_bytes(run(), 1), memory_jax.loss_bytes(run("model.vocab_size=50000"), 64)
    assert few < many < 10 * memory_jax.LOGITS_ELSEWHERE * 4
    assert memory_jax.device_memory("cpu") is None
    assert memory_jax.peak_memory("cpu") is None


@pytest.mark.parametrize("words", ["RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes", "std::bad_alloc"])
def test_running_out_of_memory_is_recognised(words: str) -> None:
    assert memory_jax.is_out_of_memory(RuntimeError(words))
    assert not memory_jax.is_out_of_memory(RuntimeError("a bug"))
