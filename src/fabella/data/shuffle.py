"""A shuffle without a table: a keyed permutation of ``range(n)``, computed for the indices that are asked for.

A Feistel network over a domain of 4ᵏ ≥ n numbers; a result outside ``range(n)`` is sent through again until it lies
inside ("cycle walking", Black & Rogaway 2002), which keeps it a bijection. Fewer than four rounds trips on average.
"""

import numpy as np
from numpy.typing import NDArray

# Four rounds are enough against an adversary who sees everything; six cost little and leave no pattern to the eye.
ROUNDS = 6
# Below 2·4 bits the network has too few distinct keys to mix well; small n walk a little longer instead.
LEAST_HALF_BITS = 4
MASK = 2**64 - 1


def permute(indices: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Where ``indices`` (each in ``range(n)``) go under the permutation ``key`` of ``range(n)``; any shape."""
    assert indices.size == 0 or 0 <= indices.min() <= indices.max() < n, "indices within range(n)"
    half = max(LEAST_HALF_BITS, ((n - 1).bit_length() + 1) // 2)
    keys = round_keys(key)
    numbers = indices.astype(np.uint64).ravel()
    outside = np.arange(len(numbers))
    while outside.size:
        walked = _feistel(numbers[outside], half, keys)
        numbers[outside] = walked
        outside = outside[walked >= n]
    return numbers.astype(np.int64).reshape(indices.shape)


def round_keys(key: int) -> list[np.uint64]:
    """One 64-bit key a round, from a key of any size."""
    state = key & MASK ^ mix(key >> 64) if key >> 64 else key & MASK
    return [np.uint64(mix(state + number * 0x9E3779B97F4A7C15)) for number in range(1, ROUNDS + 1)]


def mix(number: int) -> int:
    """SplitMix64's finalizer (Steele et al. 2014): every bit of the result hangs on every bit of ``number``."""
    number &= MASK
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & MASK
    return number ^ (number >> 31)


def _feistel(numbers: NDArray[np.uint64], half: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    bits, low = np.uint64(half), np.uint64(2**half - 1)
    left, right = numbers >> bits, numbers & low
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & low)
    return left << bits | right


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """:func:`mix` of many; arithmetic wraps at 2⁶⁴."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
