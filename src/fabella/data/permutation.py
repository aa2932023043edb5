"""A shuffle without a table: a keyed permutation of ``range(n)``, computed for the indices that are asked for.

A Feistel network over the a × b ≥ n cells of a nearly square table: an index is (row, column), and each round adds
to one of them, modulo its size, a number that the other and the key decide. The few results outside of ``range(n)``
are sent through again until they lie inside ("cycle walking"), which keeps it a bijection (Black & Rogaway 2002).
"""

import math

import numpy as np
from numpy.typing import NDArray

# Four rounds on each side: enough against an adversary who sees everything, let alone for the eye.
ROUNDS = 8
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def permute(indices: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Where ``indices`` (each in ``range(n)``) go under the permutation ``key`` of ``range(n)``; any shape."""
    assert indices.size == 0 or 0 <= indices.min() <= indices.max() < n, "indices within range(n)"
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    keys = round_keys(key)
    numbers = indices.astype(np.uint64).ravel()
    outside = np.arange(len(numbers))
    while outside.size:
        walked = _feistel(numbers[outside], rows, columns, keys)
        numbers[outside] = walked
        outside = outside[walked >= n]
    return numbers.astype(np.int64).reshape(indices.shape)


def round_keys(key: int) -> list[np.uint64]:
    """One 64-bit key a round, from a key of any size."""
    state = key & MASK ^ splitmix64(key >> 64) if key >> 64 else key & MASK
    return [np.uint64(splitmix64(state + number * GOLDEN)) for number in range(1, ROUNDS + 1)]


def splitmix64(number: int) -> int:
    """SplitMix64's finalizer (Steele et al. 2014): every bit of the result hangs on every bit of ``number``."""
    number &= MASK
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & MASK
    return number ^ (number >> 31)


def _feistel(numbers: NDArray[np.uint64], rows: int, columns: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    width, height = np.uint64(columns), np.uint64(rows)
    row, column = numbers // width, numbers % width
    for key_of_row, key_of_column in zip(keys[::2], keys[1::2], strict=True):
        row = (row + _mixed(column + key_of_row) % height) % height
        column = (column + _mixed(row + key_of_column) % width) % width
    return row * width + column


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """:func:`mix` of many; arithmetic wraps at 2⁶⁴."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
