"""The order of the tests for parallel workers: each worker starts with an equal part of the slow files.

pytest-xdist's ``worksteal`` gives each worker one contiguous part of the tests, in their order, and lets an idle worker
take the end of another's part. Slow tests at the end would leave all other workers idle.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def slow_first(
    items: Sequence[Item], workers: int, file_of: Callable[[Item], object], is_slow: Callable[[Item], bool]
) -> list[Item]:
    """Return the items in an order in which each worker's part begins with files that have slow tests.

    If the slow files do not fit into the parts, all of them come first.

    Args:
        items: the tests in the order of their files.
        workers: the number of workers, at least 1.
        file_of: returns the file of a test. The tests of a slow file stay together, since they share fixtures.
        is_slow: returns whether a test is slow.
    """
    files: defaultdict[object, list[Item]] = defaultdict(list)
    for item in items:
        files[file_of(item)].append(item)
    slow_counts = {file: sum(map(is_slow, tests)) for file, tests in files.items()}
    starts: list[list[Item]] = [[] for _ in range(workers)]
    counts = [0] * workers
    for file in sorted((f for f in files if slow_counts[f]), key=lambda f: -slow_counts[f]):
        worker = counts.index(min(counts))
        starts[worker] += files[file]
        counts[worker] += slow_counts[file]
    quick = [item for file, tests in files.items() if not slow_counts[file] for item in tests]
    sizes = part_sizes(len(items), workers)
    if any(len(start) > size for start, size in zip(starts, sizes, strict=True)):
        return [*(item for start in starts for item in start), *quick]
    remaining = iter(quick)
    return [
        item
        for start, size in zip(starts, sizes, strict=True)
        for item in (*start, *islice(remaining, size - len(start)))
    ]


def part_sizes(tests: int, workers: int) -> list[int]:
    """Return the number of tests that ``worksteal`` gives each worker at first."""
    sizes: list[int] = []
    for worker in range(workers):
        sizes.append((tests - sum(sizes)) // (workers - worker))
    return sizes
