"""Causal attention for training and for reading on: one formula for whole texts, chunks and single tokens."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fabella.errors import UsageError


class KVCache:
    """What one attention layer has read: room for ``capacity`` keys and values, filled from the left."""

    def __init__(self, batch: int, heads: int, capacity: int, head_dim: int, like: Tensor) -> None:
        self.keys = like.new_empty(batch, heads, capacity, head_dim)
        self.values = like.new_empty(batch, heads, capacity, head_dim)
        self.length = 0

    def append(
        self, key: Float[Tensor, "B K T E"], value: Float[Tensor, "B K T E"]
    ) -> tuple[Float[Tensor, "B K S E"], Float[Tensor, "B K S E"]]:
        """Everything read so far, the new positions included. Raises UsageError where there is no room."""
        new = key.shape[2]
        self.require_capacity(new)
        self.keys.narrow(2, self.length, new).copy_(key)
        self.values.narrow(2, self.length, new).copy_(value)
        self.length += new
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def require_capacity(self, new: int) -> None:
        """Raises UsageError where ``new`` tokens are more than there is room for."""
        require_room(self.length + new, self.keys.shape[2], "capacity")


def require_room(tokens: int, limit: int, name: str) -> None:
    """Raises UsageError where ``tokens`` are more than the model's ``context``, or than a state's ``capacity``."""
    if tokens > limit:
        raise UsageError(
            f"{tokens} tokens are more than the {name} of {limit}.",
            hint=f"Read the last {limit} tokens only"
            + (", or start with a larger capacity." if name == "capacity" else "."),
        )


def split_heads(x: Float[Tensor, "B T D"], heads: int) -> Float[Tensor, "B H T E"]:
    """D into heads × head dims."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def attend(
    query: Float[Tensor, "B H T E"],
    key: Float[Tensor, "B K T E"],
    value: Float[Tensor, "B K T E"],
    past: KVCache | None,
) -> Float[Tensor, "B T D"]:
    """softmax(QKᵀ/√E) V: each position looks at itself and at everything before it, ``past`` included.

    K key/value heads serve H queries, H/K neighbouring queries each (Ainslie et al. 2023, arXiv 2305.13245).
    """
    if past is not None:
        key, value = past.append(key, value)
    new, seen = query.shape[2], key.shape[2]
    whole = new == seen
    # Row i of the new positions sees the first (seen − new + i + 1) keys; a single new position sees all of them.
    mask = None if whole or new == 1 else torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    mixed = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=whole and new > 1, enable_gqa=query.shape[1] != key.shape[1]
    )
    return mixed.transpose(1, 2).flatten(2)
