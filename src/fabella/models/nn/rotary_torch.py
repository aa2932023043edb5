"""Rotary position embedding (RoPE): queries and keys are rotated by an angle that grows with their position.

The product of a query and a key then depends on their distance only (Su et al. 2021, arXiv 2104.09864, eq. 15). Two
pairings of dimensions are in use, and weights trained with one do not work with the other: each has its function.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.models.nn.kernels.fused_heads_torch import fused_rotary
from fabella.models.nn.kernels.tensors_torch import kernels_for


class RotaryTable(NamedTuple):
    """Cosine and sine of the rotation angle of each pair of dimensions, at each of S positions."""

    cos: Float[Tensor, "S P"]
    sin: Float[Tensor, "S P"]

    def span(self, start: int, end: int) -> "RotaryTable":
        """Return the rows of positions ``start`` to ``end`` − 1."""
        return RotaryTable(self.cos[start:end], self.sin[start:end])


def rotary_table(dims: int, base: float, length: int, device: torch.device) -> RotaryTable:
    """Return the angles of the first ``length`` positions: pair p rotates by base^(−2p/dims) per position."""
    pairs = torch.arange(0, dims, 2, device=device, dtype=torch.float32)
    frequencies = base ** (-pairs / dims)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
    return RotaryTable(angles.cos(), angles.sin())


def apply_rotary(x: Float[Tensor, "B H T E"], rotary: RotaryTable) -> Float[Tensor, "B H T E"]:
    """Rotate dimension i with i + E/2, the pairing of Hugging Face's Llama weights."""
    kernels = kernels_for(x)
    if kernels is not None:
        return fused_rotary(kernels, x, rotary.cos, rotary.sin, interleaved=False)
    first, second = x.chunk(2, dim=3)
    rotated = torch.cat((first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin), dim=3)
    return rotated.type_as(x)


def apply_rotary_partial(x: Float[Tensor, "B H T E"], rotary: RotaryTable) -> Float[Tensor, "B H T E"]:
    """Rotate dimension i with i + P in the first 2·P; the other dimensions stay (partial rotary, GPT-NeoX)."""
    kernels = kernels_for(x)
    if kernels is not None:
        return fused_rotary(kernels, x, rotary.cos, rotary.sin, interleaved=False)
    rotary_dims = 2 * rotary.cos.shape[1]
    rotated, passed = x.split((rotary_dims, x.shape[3] - rotary_dims), dim=3)
    return torch.cat((apply_rotary(rotated, rotary), passed), dim=3)


def apply_rotary_interleaved(x: Float[Tensor, "B H T E"], rotary: RotaryTable) -> Float[Tensor, "B H T E"]:
    """Rotate neighboring dimensions (0, 1), (2, 3) … of the first 2·P; the other dimensions stay (partial rotary)."""
    kernels = kernels_for(x)
    if kernels is not None:
        return fused_rotary(kernels, x, rotary.cos, rotary.sin, interleaved=True)
    rotary_dims = 2 * rotary.cos.shape[1]
    rotated, passed = x.split((rotary_dims, x.shape[3] - rotary_dims), dim=3)
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    pairs = (even * rotary.cos - odd * rotary.sin, even * rotary.sin + odd * rotary.cos)
    return torch.cat((torch.stack(pairs, dim=4).flatten(3).type_as(x), passed), dim=3)
