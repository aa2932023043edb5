"""Keyed permutation of ``range(n)`` without a table, computed only for the indices that are needed.

A Feistel network over the a × b ≥ n cells of a nearly square table: an index is (row, column), and each round adds to
one of them, modulo its size, a hash of the other and the round key. Results outside of ``range(n)`` are permuted again
until they are inside ("cycle walking"), which keeps the map a bijection (Black & Rogaway 2002).
"""

import math

import numpy as np
from numpy.typing import NDArray

from fabella.splitmix64 import GAMMA, MASK, splitmix64

ROUNDS = 8
"""Feistel rounds, half of them on rows, half on columns. Four on each side withstand an adversary who sees all."""


def permute(indices: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Return the images of ``indices`` (each in ``range(n)``, any shape) under the permutation ``key``."""
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
    """Return one 64-bit key per round, derived from a key of any size."""
    state = key & MASK ^ splitmix64(key >> 64) if key >> 64 else key & MASK
    return [np.uint64(splitmix64(state + number * GAMMA)) for number in range(1, ROUNDS + 1)]


def _feistel(numbers: NDArray[np.uint64], rows: int, columns: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    width, height = np.uint64(columns), np.uint64(rows)
    row, column = numbers // width, numbers % width
    for row_key, column_key in zip(keys[::2], keys[1::2], strict=True):
        row = (row + splitmix64(column + row_key) % height) % height
        column = (column + splitmix64(row + column_key) % width) % width
    return row * width + column
