"""Rotary position embedding (RoPE): queries and keys are rotated by an angle that grows with their position.

The product of a query and a key then depends on their distance only (Su et al. 2021, arXiv 2104.09864, eq. 15). Two
pairings of dimensions are in use, and weights trained with one do not work with the other: each has its function.
"""

from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float


class RotaryTable(NamedTuple):
    """Cosine and sine of the rotation angle of each pair of dimensions, at each of T positions."""

    cos: Float[Array, "T P"]
    sin: Float[Array, "T P"]


def rotary_table(dims: int, base: float, start: Array | int, length: int) -> RotaryTable:
    """Return the angles of ``length`` positions from ``start``: pair p of ``dims`` rotates by base^(−2p/dims) each."""
    pairs = jnp.arange(0, dims, 2, dtype=jnp.float32)
    frequencies = jnp.float32(base) ** (-pairs / dims)
    angles = jnp.outer((jnp.arange(length) + start).astype(jnp.float32), frequencies)
    return RotaryTable(jnp.cos(angles), jnp.sin(angles))


def apply_rotary(x: Float[Array, "B H T E"], rotary: RotaryTable) -> Float[Array, "B H T E"]:
    """Rotate dimension i with i + E/2, the pairing of Hugging Face's Llama weights."""
    first, second = jnp.split(x, 2, axis=3)
    halves = (first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin)
    return jnp.concatenate(halves, axis=3).astype(x.dtype)


def apply_rotary_interleaved(x: Float[Array, "B H T E"], rotary: RotaryTable) -> Float[Array, "B H T E"]:
    """Rotate neighboring dimensions (0, 1), (2, 3) … of the first 2·P; the other dimensions stay (partial rotary)."""
    rotated, passed = jnp.split(x, [2 * rotary.cos.shape[1]], axis=3)
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    pairs = jnp.stack((even * rotary.cos - odd * rotary.sin, even * rotary.sin + odd * rotary.cos), axis=4)
    return jnp.concatenate((pairs.reshape(rotated.shape).astype(x.dtype), passed), axis=3)
