"""Tests of SplitMix64 for integers and arrays."""

import numpy as np

from fabella.splitmix64 import GAMMA, MASK, splitmix64


def test_splitmix64_matches_its_published_values() -> None:
    """The first two outputs from state 0 (Steele et al. 2014)."""
    assert splitmix64(GAMMA) == 0xE220A8397B1DCDAF
    assert splitmix64(2 * GAMMA) == 0x6E789E6AA1B965F4


def test_an_array_gives_the_same_numbers_as_its_elements() -> None:
    numbers = [0, 1, 2**31, 2**63 + 5, MASK, GAMMA]
    assert splitmix64(np.array(numbers, np.uint64)).tolist() == [splitmix64(number) for number in numbers]


def test_integers_are_taken_modulo_64_bits() -> None:
    assert splitmix64(-1) == splitmix64(MASK)
    assert splitmix64(2**64 + 7) == splitmix64(7)
