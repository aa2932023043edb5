"""Runs that differ only in their seed: mean and standard deviation of their curves and scores."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fabella.report.charts import Line
from fabella.report.run_history import Row, RunHistory, settings
from fabella.run_config.run import RunConfig

OWN_KEYS = {"seed", "name"}
"""Settings in which the runs of a group differ."""
UNRELATED_KEYS = ("about.", "tracking.", "checkpoint.")
"""Prefixes of settings that do not change what is learned."""
MAX_POINTS = 300
"""Points of a mean curve; a chart is not wider."""


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Two or more runs with the same settings except for the seed; ``numbers`` are their places in the report."""

    numbers: tuple[int, ...]

    def label(self, names: Sequence[str]) -> str:
        """Return the name of the mean curve."""
        return f"mean ± deviation of {len(self.numbers)} seeds ({', '.join(names[number] for number in self.numbers)})"


def settings_but_seed(run: RunConfig) -> tuple[tuple[str, str], ...]:
    """Return the settings that decide what a run learns, without its seed: equal for the seeds of one variant."""
    values = settings(run).items()
    return tuple(
        (name, value) for name, value in values if name not in OWN_KEYS and not name.startswith(UNRELATED_KEYS)
    )


def seed_groups(histories: Sequence[RunHistory]) -> list[SeedGroup]:
    """Return the groups of runs that differ only in their seed."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for number, history in enumerate(histories):
        groups.setdefault(settings_but_seed(history.run), []).append(number)
    return [SeedGroup(tuple(numbers)) for numbers in groups.values() if len(numbers) > 1]


def mean_line(name: str, runs: Sequence[Sequence[tuple[float, float, float]]], color: int) -> Line | None:
    """Return the mean of curves with its deviation at the steps that all runs have; None if there is no such step.

    A point of a run is (step, x, y). The deviation is the standard deviation of a sample (n - 1).
    """
    by_step = [{step: (x, y) for step, x, y in points if math.isfinite(y)} for points in runs]
    steps = sorted(set.intersection(*(set(points) for points in by_step)))
    steps = steps[:: -(-len(steps) // MAX_POINTS) or 1]
    if not steps:
        return None
    columns = [[points[step] for points in by_step] for step in steps]
    points = [(statistics.fmean(x for x, _ in column), statistics.fmean(y for _, y in column)) for column in columns]
    return Line(name, points, color, spread=[statistics.stdev(y for _, y in column) for column in columns])


def scores(history: RunHistory) -> Row:
    """Return the row of the final score, or of the last validation before the end of a run; empty for none."""
    return history.final or (history.validation[-1] if history.validation else {})


def mean_scores(group: SeedGroup, histories: Sequence[RunHistory], keys: Sequence[str]) -> list[tuple[float, float]]:
    """Return mean and deviation of each score over the runs of a group; NaN if a run has no such score."""
    rows = [scores(histories[number]) for number in group.numbers]
    columns = [[_number(row.get(key)) for row in rows] for key in keys]
    return [
        (statistics.fmean(values), statistics.stdev(values))
        if all(map(math.isfinite, values))
        else (math.nan, math.nan)
        for values in columns
    ]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
