"""SplitMix64, the hash behind every reproducible choice: shuffles, mixtures and the storybook.

Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators". Choices are a function of a seed and a
counter instead of a random state, so that any of them can be computed without those before it.
"""

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
"""Odd increment between two counters, 2^64 divided by the golden ratio."""


@overload
def splitmix64(number: int) -> int: ...
@overload
def splitmix64(number: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
def splitmix64(number: int | NDArray[np.uint64]) -> int | NDArray[np.uint64]:
    """Return SplitMix64's finalizer of an integer (modulo 2^64) or of each number of an array.

    A bijection of 64-bit numbers: every bit of the result depends on every bit of ``number``.
    """
    mixed: Any = number & MASK  # numpy's stubs lose the unsigned type
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & MASK
    return mixed ^ (mixed >> 31)
