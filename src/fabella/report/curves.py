"""Curves of runs in a report, for every x-axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fabella.report.charts import Axis, Line
from fabella.report.published_curves import PublishedCurve
from fabella.report.run_history import Row, RunHistory
from fabella.report.seeds import SeedGroup, mean_line, seed_groups

X = {
    "step": Axis("training steps", "count"),
    "tokens": Axis("tokens"),
    "seconds": Axis("training time", "seconds"),
    "flops": Axis("floating-point operations"),
}
OTHER_KEYS = {"loss": "loss", "bits": "bits_per_byte"}
"""Charts that show the validations on other texts, and the key of their value in a row."""
MEAN_KEYS = {"loss", "bits", "perplexity"}
"""Charts that show the mean of runs that differ only in the seed."""
LOG_KEYS = {"loss", "bits", "perplexity", "norm", "scale"}
NOISY_KEYS = {"loss", "norm", "speed"}
SMOOTHED = 0.05
"""Share of the points over which the mean of a noisy curve runs."""
SMOOTHED_FROM = 40
"""Number of points from which a noisy curve is smoothed; two neighbors of few points are no noise to remove."""

Series = tuple[str, str, Callable[[Row], float]]
"""Rows of a history (training or validation), name of the line, and value of a row."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Chart with its lines for each of ``run_history.X_AXES``."""

    key: str
    title: str
    y: Axis
    lines: dict[str, list[Line]]


def curves(
    histories: Sequence[RunHistory], names: Sequence[str], published: Sequence[PublishedCurve] = ()
) -> list[Curves]:
    """Return the charts of these runs that have points; published curves are added to the bits per byte."""
    charts = [
        _chart("loss", "Loss", "nats per token", histories, names, [("training", "training", _of("loss")),
                                                                 ("validation", "validation", _of("loss"))]),
        _bits(histories, names, published),
        _chart("perplexity", "Perplexity", "", histories, names,
               [("validation", "validation", lambda row: math.exp(min(_of("loss")(row), 700.0)))]),
        _chart("lr", "Learning rate", "", histories, names, [("training", "", _of("lr"))]),
        _chart("speed", "Speed", "tokens per second", histories, names, [("training", "", _of("tokens_per_second"))]),
        _chart("norm", "Gradient norm", "", histories, names, [("training", "", _of("grad_norm"))]),
        _chart("memory", "Peak memory", "bytes", histories, names, [("training", "", _of("peak_memory_bytes"))]),
        _chart("scale", "Loss scale", "", histories, names, [("training", "", _of("loss_scale"))]),
    ]  # fmt: skip
    return [each for each in charts if any(line.points for line in each.lines["step"])]


def _of(key: str) -> Callable[[Row], float]:
    """Return a function from a row to the number under ``key``, NaN if there is none."""

    def value(row: Row) -> float:
        number = row.get(key)
        return float(number) if isinstance(number, int | float) else math.nan

    return value


def _chart(
    key: str, title: str, unit: str, histories: Sequence[RunHistory], names: Sequence[str], series: Sequence[Series]
) -> Curves:
    """Return the lines of each ``series`` (rows, name, value) and run, and the mean of runs that differ in the seed."""
    groups = seed_groups(histories) if key in MEAN_KEYS else []
    lines = {x_axis: _lines(x_axis, key, title, histories, names, series) for x_axis in X}
    for group in groups:
        for x_axis, drawn in lines.items():
            mean = _mean(x_axis, group, histories, names, series)
            if mean:
                lines[x_axis] = [*_background(drawn, group), mean]
    return Curves(key, title, Axis(unit, log=key in LOG_KEYS), lines)


def _lines(
    x_axis: str, key: str, title: str, histories: Sequence[RunHistory], names: Sequence[str], series: Sequence[Series]
) -> list[Line]:
    lines: list[Line] = []
    for number, (history, name) in enumerate(zip(histories, names, strict=True)):
        for rows, label, value in series:
            points = [(x, y) for _, x, y in _points(getattr(history, rows), x_axis, value)]
            prefix = prefix_of(histories, name)
            background = rows == "training" and key == "loss" and bool(history.validation)
            noisy = rows == "training" and key in NOISY_KEYS
            text = f"{prefix}{label}".strip() or title.lower()
            lines += run_lines(text, points, number, noisy=noisy, background=background)
        if key in OTHER_KEYS:
            lines += _other_lines(history, prefix_of(histories, name), x_axis, OTHER_KEYS[key], len(histories) + number)
    return lines


def _other_lines(history: RunHistory, prefix: str, x_axis: str, key: str, color: int) -> list[Line]:
    """Return a line for each other text that a run is validated on."""
    return [
        Line(f"{prefix}validation on {name}", [(x, y) for _, x, y in _points(rows, x_axis, _of(key))], color + index)
        for index, (name, rows) in enumerate(history.other_validation.items())
    ]


def prefix_of(histories: Sequence[RunHistory], name: str) -> str:
    """Return what the lines of a run begin with: its name, unless it is the only one."""
    return f"{name} " if len(histories) > 1 else ""


def _points(rows: Sequence[Row], x_axis: str, value: Callable[[Row], float]) -> list[tuple[float, float, float]]:
    """Return (step, x, y) of the rows that have a value."""
    points = [(float(row["step"]), float(row[x_axis]), value(row)) for row in rows]
    return [point for point in points if not math.isnan(point[2])]


def _mean(
    x_axis: str, group: SeedGroup, histories: Sequence[RunHistory], names: Sequence[str], series: Sequence[Series]
) -> Line | None:
    """Return the mean of the runs of a group: of the validations, or of the training if there are none."""
    for rows, _, value in reversed(series):
        runs = [_points(getattr(histories[number], rows), x_axis, value) for number in group.numbers]
        if mean := mean_line(group.label(names), runs, group.numbers[0]):
            return mean
    return None


def _background(lines: Sequence[Line], group: SeedGroup) -> list[Line]:
    """Return the lines of a chart with those of a group behind its mean: without thin ones, the others thin."""
    kept = [line for line in lines if line.color not in group.numbers or line.style != "thin"]
    return [replace(line, style="thin") if line.color in group.numbers else line for line in kept]


def run_lines(
    name: str, points: Sequence[tuple[float, float]], color: int, *, noisy: bool, background: bool
) -> list[Line]:
    """Return the lines of one quantity of a run: at least one of them is bold, unless another quantity is the subject.

    ``noisy``: many points get a running mean. ``background``: the quantity accompanies a more important one.
    """
    if not points:
        return []
    if background:
        return [Line(name, points, color, "thin")]
    if noisy and len(points) >= SMOOTHED_FROM:
        return [
            Line(f"{name}, measured", points, color, "thin"),
            Line(f"{name}, smoothed", running_mean(points), color),
        ]
    return [Line(name, points, color)]


def _bits(histories: Sequence[RunHistory], names: Sequence[str], published: Sequence[PublishedCurve]) -> Curves:
    """Return the bits per byte of the validations, with the published curves of these presets."""
    rules = ", ".join(dict.fromkeys(history.rule for history in histories))
    chart = _chart(
        "bits", f"Bits per byte ({rules})", "bits", histories, names, [("validation", "", _of("bits_per_byte"))]
    )
    for x_axis, lines in chart.lines.items():
        lines[:0] = [
            Line(f"published: {curve.preset}", points, 0, "reference")
            for curve in published
            if (points := curve.points.get(x_axis))
        ]
    return chart


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the centered running mean, over fewer points at the ends."""
    reach = max(1, round(len(points) * SMOOTHED / 2))
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    means: list[tuple[float, float]] = []
    for index, (x, _) in enumerate(points):
        side = min(reach, index, len(points) - 1 - index)
        means.append((x, (sums[index + side + 1] - sums[index - side]) / (2 * side + 1)))
    return means
