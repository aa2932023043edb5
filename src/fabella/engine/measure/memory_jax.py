"""Memory of a training step with JAX: estimated without allocating it, and measured."""

import math
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from fabella.engine.device_jax import pick_devices, resolve_precision
from fabella.models.nn.layers_jax import Params
from fabella.models.nn.loss_jax import LOGITS_ELSEWHERE, LOGITS_ON_CPU, positions_per_chunk
from fabella.models.registry import network_module
from fabella.run_config.run import RunConfig

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc", "Cannot allocate memory")


def activation_bytes(run: RunConfig, sequences: int, device: str = "auto") -> int:
    """Return the bytes of the activations of ``sequences`` sequences, from the blocks to the output heads.

    Traced without computing: the shapes of the residuals of the backward pass, without the weights. XLA may store less
    and recompute the rest.
    """
    model = network_module(run.model, "jax").Model(run.model)
    compute = resolve_precision(run.training.precision, pick_devices(device)[0]).compute
    table = run.model.parameters()
    weights = {name: jax.ShapeDtypeStruct(parameter.shape, jnp.float32) for name, parameter in table.items()}
    tokens = jax.ShapeDtypeStruct((sequences, run.data.sequences.length), jnp.int32)

    def kept(weights: dict[str, Array], tokens: Array) -> Any:
        def read(weights: dict[str, Array]) -> Any:
            return model.hidden_states(
                Params(
                    weights, compute=compute, gradient_checkpointing=run.training.gradient_checkpointing == "blocks"
                ),
                tokens,
            )[0]

        return jax.vjp(read, weights)[1]

    found = [leaf for leaf in jax.tree.leaves(jax.eval_shape(kept, weights, tokens)) if leaf.shape]
    # Weights are kept, too, or a half-precision copy of them: those have no window.
    shapes = {parameter.shape for parameter in table.values()}
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in found if leaf.shape not in shapes)


def loss_bytes(run: RunConfig, sequences: int, device: str = "auto") -> int:
    """Return the bytes of one chunk of logits and its gradient (models/nn/loss_jax.py)."""
    length, vocab_size = run.data.sequences.length, run.model.vocab_size
    logits = LOGITS_ON_CPU if pick_devices(device)[0].platform == "cpu" else LOGITS_ELSEWHERE
    return 2 * sequences * min(length, positions_per_chunk(sequences, vocab_size, logits)) * vocab_size * 4


def kept_bytes(run: RunConfig, needed: int, device: str = "auto") -> int:
    """Return 0: XLA allocates the memory of a step as a whole."""
    return 0


def device_memory(device: str) -> tuple[int, int] | None:
    """Return total and free bytes of an accelerator's memory; None for a device that uses the machine's memory."""
    statistics = pick_devices(device)[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return int(statistics["bytes_limit"]), int(statistics["bytes_limit"] - statistics["bytes_in_use"])


def limit_memory(device: str, limit: int) -> None:
    """Do nothing: JAX reserves its share of an accelerator at start (XLA_PYTHON_CLIENT_MEM_FRACTION)."""


def peak_memory(device: str) -> int | None:
    """Return the peak of an accelerator's memory in bytes; None for any other device."""
    statistics = pick_devices(device)[0].memory_stats() or {}
    return int(statistics["peak_bytes_in_use"]) if "peak_bytes_in_use" in statistics else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory has run out."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in OUT_OF_MEMORY)
