"""Tests of the activation memory of a step, which JAX determines by tracing."""

import pytest

from fabella.engine.measure import memory_jax, memory_torch
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig


def run(*overrides: str) -> RunConfig:
    return load_config("storybook-1m", ["engine=jax", *overrides])


def test_activations_grow_with_the_micro_batch_size() -> None:
    one, four = (memory_jax.activation_bytes(run(), size, "cpu") for size in (1, 4))
    assert 3.5 * one < four < 4.5 * one


def test_gradient_checkpointing_saves_activation_memory() -> None:
    without_checkpointing = memory_jax.activation_bytes(run(), 2, "cpu")
    assert (
        memory_jax.activation_bytes(run("training.gradient_checkpointing=blocks"), 2, "cpu") < without_checkpointing / 2
    )


def test_activations_are_about_as_large_as_in_pytorch() -> None:
    """Neither engine stores attention weights; JAX stores more of the results between two matrix products."""
    jax_bytes, torch_bytes = (
        memory_jax.activation_bytes(run(), 2, "cpu"),
        memory_torch.activation_bytes(run(), 2, "cpu"),
    )
    assert 0.5 * torch_bytes < jax_bytes < 2 * torch_bytes


def test_logits_are_computed_in_chunks() -> None:
    small, large = memory_jax.loss_bytes(run(), 1), memory_jax.loss_bytes(run("model.vocab_size=50000"), 64)
    assert small < large < 10 * memory_jax.LOGITS_ELSEWHERE * 4
    assert memory_jax.device_memory("cpu") is None
    assert memory_jax.peak_memory("cpu") is None


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes", "std::bad_alloc"])
def test_out_of_memory_errors_are_recognized(message: str) -> None:
    assert memory_jax.is_out_of_memory(RuntimeError(message))
    assert not memory_jax.is_out_of_memory(RuntimeError("a bug"))
