"""Activations of a JAX network, reported by the blocks that all families share; activations.py has the names."""

import re
from typing import Any

from jax import Array
from jax import numpy as jnp

from fabella.models.nn.hooks_jax import observed

MODULES = {"attention.output": "mixer", "mixer.output": "mixer", "feed_forward.down": "mlp"}
"""Last layer of a part of a block → name of the part's output."""
WITHIN_BLOCK = {"attention", "gate", "candidate", "state"}
"""Values that are reported without the name of the block, which is the one entered last."""


def record(model: Any, tokens: Any) -> dict[str, Array]:
    """Return the activations of a ``LoadedModel`` for ``tokens`` [B T], with ``logits``. Nothing is compiled."""
    recorded: dict[str, Array] = {}
    block = ""

    def observe(name: str, value: Array) -> None:
        nonlocal block
        if match := re.fullmatch(r"blocks\.(\d+)\.input", name):
            block = f"blocks.{match[1]}"
            if match[1] == "0":
                recorded["embedding"] = value
        elif name.startswith("blocks."):
            _, number, part = name.split(".", 2)
            if part in MODULES or part == "residual":
                recorded[f"blocks.{number}.{MODULES.get(part, part)}"] = value
        elif name in WITHIN_BLOCK:
            recorded[f"{block}.{name}"] = value

    with observed(observe):
        logits = model.model.forward(model.network, jnp.asarray(tokens))
    return {**recorded, "logits": logits}
