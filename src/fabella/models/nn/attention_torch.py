"""Causal self-attention for training and for decoding: one formula for sequences, chunks and single tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fabella.models.nn.capacity import require_capacity
from fabella.models.nn.kernels.fused_attention_torch import fused_attention
from fabella.models.nn.kernels.tensors_torch import kernels_for
from fabella.models.nn.rotary_torch import RotaryTable

Rotate = Callable[[Float[Tensor, "B H T E"], RotaryTable], Float[Tensor, "B H T E"]]
"""``apply_rotary``, ``apply_rotary_partial`` or ``apply_rotary_interleaved``."""


class AttentionSpec(NamedTuple):
    """What an attention computes with its layers ``query``, ``key``, ``value`` and ``output``.

    The fast decoder reads it from ``attention.spec``, so that a family may have an attention of its own.
    """

    heads: int
    kv_heads: int
    """Neighboring query heads share one of them."""
    rotate: Rotate | None = None
    """Rotates queries and keys by their position."""
    query_norm: nn.Module | None = None
    """RMSNorm of each query head before the rotation; ``key_norm`` that of each key head."""
    key_norm: nn.Module | None = None
    window: int | None = None
    """Tokens that a token sees, itself included; None: all before it."""
    scale: float | None = None
    """Factor of the products of queries and keys; None: 1/√E."""
    value_weights: Float[Tensor, " 2"] | None = None
    """Factors of the values and of those of the model's first attention; None: values are not mixed."""
    output_gate: bool = False
    """Whether 2 · sigmoid of the layer ``output_gate``, a row per head, multiplies the output of each head."""


class KVCache:
    """Keys and values of one attention layer, preallocated for ``capacity`` tokens per sequence; filled from the left.

    Every sequence of the batch has the same ``length``. Updated in place.
    """

    def __init__(self, batch_size: int, kv_heads: int, capacity: int, head_dim: int, like: Tensor) -> None:
        """Allocate on the device and in the dtype of ``like``."""
        self.keys = like.new_empty(batch_size, kv_heads, capacity, head_dim)
        self.values = like.new_empty(batch_size, kv_heads, capacity, head_dim)
        self.length = 0

    def append(
        self, key: Float[Tensor, "B K T E"], value: Float[Tensor, "B K T E"]
    ) -> tuple[Float[Tensor, "B K S E"], Float[Tensor, "B K S E"]]:
        """Store T more positions and return all of them. Raises UsageError beyond the capacity."""
        new = key.shape[2]
        self.require_capacity(new)
        self.keys.narrow(2, self.length, new).copy_(key)
        self.values.narrow(2, self.length, new).copy_(value)
        self.length += new
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def require_capacity(self, new: int) -> None:
        """Raise UsageError if ``new`` more tokens exceed the capacity."""
        require_capacity(self.length + new, self.keys.shape[2], "capacity")


class CausalAttention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2).

    With ``kv_heads`` < ``heads``, heads share keys and values (grouped-query attention). ``rotate`` applies the rotary
    embedding to queries and keys; without it, positions come from elsewhere. ``bias`` is that of all four layers.
    """

    def __init__(
        self, dim: int, heads: int, *, kv_heads: int | None = None, bias: bool = False, rotate: Rotate | None = None
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.rotate = heads, kv_heads or heads, rotate
        kv_dim = dim // heads * self.kv_heads
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(dim, kv_dim, bias=bias)
        self.value = nn.Linear(dim, kv_dim, bias=bias)
        self.output = nn.Linear(dim, dim, bias=bias)

    @property
    def spec(self) -> AttentionSpec:
        return AttentionSpec(self.heads, self.kv_heads, rotate=self.rotate)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        kv_cache: KVCache | None = None,
        rotary: RotaryTable | None = None,
        document_starts: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend to the T positions and to those in ``kv_cache``, which is extended; ``rotary`` has T rows.

        ``document_starts``: as in ``attend``.
        """
        query = split_heads(self.query(x), self.heads)
        key = split_heads(self.key(x), self.kv_heads)
        value = split_heads(self.value(x), self.kv_heads)
        if self.rotate is not None:
            assert rotary is not None, "attention with a rotary embedding needs the angles of the positions"
            query, key = self.rotate(query, rotary), self.rotate(key, rotary)
        return self.output(attend(query, key, value, kv_cache, document_starts))


def split_heads(x: Float[Tensor, "B T D"], heads: int) -> Float[Tensor, "B H T E"]:
    """Split D into H heads of E dimensions."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def attend(
    query: Float[Tensor, "B H T E"],
    key: Float[Tensor, "B K T E"],
    value: Float[Tensor, "B K T E"],
    kv_cache: KVCache | None,
    document_starts: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T D"]:
    """Return softmax(QKᵀ/√E) V: each position attends to itself and to all before it, those in ``kv_cache`` included.

    Each of the K key/value heads serves H/K neighboring query heads (Ainslie et al. 2023, arXiv 2305.13245).
    ``document_starts``: int32, the position at which the document of each position starts, below which it attends to
    nothing; None: 0. It rises with the position. Not with ``kv_cache``.
    """
    kernels = kernels_for(query, key, value) if kv_cache is None else None
    if kernels is not None:
        return fused_attention(kernels, query, key, value, scale=query.shape[3] ** -0.5, first=document_starts)
    if document_starts is not None:
        assert kv_cache is None, "documents are masked in whole sequences only"
        attn_out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=document_mask(document_starts), enable_gqa=query.shape[1] != key.shape[1]
        )
        return attn_out.transpose(1, 2).flatten(2)
    if kv_cache is not None:
        key, value = kv_cache.append(key, value)
    new, seen = query.shape[2], key.shape[2]
    from_start = new == seen
    mask = None
    if not from_start and new > 1:
        # Row i of the new positions sees the first (seen − new + i + 1) keys; a single new position sees all of them.
        mask = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    attn_out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=from_start and new > 1, enable_gqa=query.shape[1] != key.shape[1]
    )
    return attn_out.transpose(1, 2).flatten(2)


def document_mask(document_starts: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Return which keys each query attends to: those of its document up to itself."""
    positions = torch.arange(document_starts.shape[1], device=document_starts.device)
    return (positions <= positions[:, None]) & (positions >= document_starts[:, None, :, None])
