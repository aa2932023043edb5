"""How much memory a step takes with JAX: estimated without taking it, and looked up afterwards."""

import importlib
import math
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from fabella.engine.device_jax import pick_devices, resolve_precision
from fabella.models.nn.layers_jax import Params
from fabella.models.nn.loss_jax import LOGITS_ELSEWHERE, LOGITS_ON_CPU, positions_at_once
from fabella.run_config.run import RunConfig

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc", "Cannot allocate memory")


def activation_bytes(run: RunConfig, windows: int, device: str = "auto") -> int:
    """What the forward pass of ``windows`` windows keeps for the way back, from the blocks up to the heads.

    Found by tracing: the shapes of all that the way back asks for, but for the weights. XLA may keep less, where it
    computes something again sooner than keeping it.
    """
    model = importlib.import_module(f"fabella.models.{run.model.family}_jax").Model(run.model)
    compute = resolve_precision(run.training.precision, pick_devices(device)[0]).compute
    table = run.model.parameters()
    weights = {name: jax.ShapeDtypeStruct(parameter.shape, jnp.float32) for name, parameter in table.items()}
    tokens = jax.ShapeDtypeStruct((windows, run.data.sequences.length), jnp.int32)

    def kept(weights: dict[str, Array], tokens: Array) -> Any:
        def read(weights: dict[str, Array]) -> Any:
            return model.hidden_states(
                Params(weights, compute=compute, recompute=run.training.gradient_checkpointing == "blocks"), tokens
            )[0]

        return jax.vjp(read, weights)[1]

    found = [leaf for leaf in jax.tree.leaves(jax.eval_shape(kept, weights, tokens)) if leaf.shape]
    # Weights are kept, too, or a half-precision copy of them: those have no window.
    shapes = {parameter.shape for parameter in table.values()}
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in found if leaf.shape not in shapes)


def loss_bytes(run: RunConfig, windows: int, device: str = "auto") -> int:
    """One stretch of logits and their gradient; see nn_loss_jax.py."""
    length, vocab_size = run.data.sequences.length, run.model.vocab_size
    logits = LOGITS_ON_CPU if pick_devices(device)[0].platform == "cpu" else LOGITS_ELSEWHERE
    return 2 * windows * min(length, positions_at_once(windows, vocab_size, logits)) * vocab_size * 4


def device_memory(device: str) -> tuple[int, int] | None:
    """Bytes of an accelerator's memory, and those of them that are free; None where it uses the machine's memory."""
    statistics = pick_devices(device)[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return int(statistics["bytes_limit"]), int(statistics["bytes_limit"] - statistics["bytes_in_use"])


def limit_memory(device: str, limit: int) -> None:
    """JAX takes its share of an accelerator when it starts (XLA_PYTHON_CLIENT_MEM_FRACTION), and no less later."""


def peak_memory(device: str) -> int | None:
    """The most bytes of an accelerator's memory in use at once; None where there is no such memory."""
    statistics = pick_devices(device)[0].memory_stats() or {}
    return int(statistics["peak_bytes_in_use"]) if "peak_bytes_in_use" in statistics else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in OUT_OF_MEMORY)
