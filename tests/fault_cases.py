"""Faults that each test injects, added to the test's report for the count in docs/faults.md."""

from collections import Counter
from collections.abc import Iterable

import pytest

PROPERTY = "fault"
"""Name of the property of a test report: row of the fault matrix, cases, and parameter sets that share the cases."""


def record_fault_cases(items: Iterable[pytest.Item]) -> None:
    """Add the rows and cases of ``@pytest.mark.fault("A9", cases=500)`` to the properties of each test."""
    items = list(items)
    parameter_sets = Counter(function_id(item) for item in items)
    for item in items:
        for mark in item.iter_markers("fault"):
            row, cases = read_mark(mark)
            item.user_properties.append((PROPERTY, [row, cases, parameter_sets[function_id(item)]]))


def read_mark(mark: pytest.Mark) -> tuple[str, int]:
    """Return row and cases of a marker; one case unless the marker says more."""
    arguments = {**dict(zip(("row", "cases"), mark.args, strict=False)), **mark.kwargs}
    return str(arguments["row"]), int(arguments.get("cases", 1))


def function_id(item: pytest.Item) -> str:
    """Return the id of a test without its parameters."""
    return item.nodeid.split("[")[0]
