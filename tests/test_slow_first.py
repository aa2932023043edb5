"""Tests of the order of the tests for parallel workers."""

from collections.abc import Iterator
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tests.slow_first import part_sizes, slow_first

# A file of each number: whether each of its tests is slow.
FILES = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), max_size=12)


@given(files=FILES, workers=st.integers(1, 5))
def test_every_worker_begins_with_its_slow_files(files: list[list[bool]], workers: int) -> None:
    """The order keeps all tests and the order within a file; no quick file stands before a slow one in any part."""
    items = [(file, test) for file, tests in enumerate(files) for test in range(len(tests))]
    ordered = slow_first(items, workers, lambda item: item[0], lambda item: files[item[0]][item[1]])
    assert sorted(ordered) == items
    for file in range(len(files)):
        assert [test for f, test in ordered if f == file] == list(range(len(files[file])))
    kinds = [any(files[file]) for file, _ in ordered]  # True: of a slow file
    parts = list(pieces(kinds, part_sizes(len(items), workers)))
    assert kinds == sorted(kinds, reverse=True) or all(part == sorted(part, reverse=True) for part in parts)


def pieces(values: list[bool], sizes: list[int]) -> Iterator[list[bool]]:
    """Cut a list into pieces of the given sizes, which must use it up."""
    rest = iter(values)
    yield from (list(islice(rest, size)) for size in sizes)
    assert not list(rest)


def test_slow_files_are_divided_equally() -> None:
    """Four slow files go to four workers, the one with most slow tests first."""
    files = [[False] * 5, [True], [True] * 3, [False], [True, False], [True] * 2, [False] * 6]
    items = [(file, test) for file, tests in enumerate(files) for test in range(len(tests))]
    ordered = slow_first(items, 4, lambda item: item[0], lambda item: files[item[0]][item[1]])
    assert [file for file, _ in ordered[::5]] == [2, 5, 1, 4]
