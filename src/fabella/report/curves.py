"""Curves of runs in a report, for every x-axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabella.report.charts import Axis, Line
from fabella.report.published_curves import PublishedCurve
from fabella.report.run_history import Row, RunHistory

X = {
    "step": Axis("training steps"),
    "tokens": Axis("tokens"),
    "seconds": Axis("training time", "seconds"),
    "flops": Axis("floating-point operations"),
}
LOG_KEYS = {"loss", "bits", "perplexity", "norm", "scale"}
SMOOTHED = 0.05
"""Share of the points over which the mean of a noisy curve runs."""


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
    key: str, title: str, unit: str, histories: Sequence[RunHistory], names: Sequence[str],
    series: Sequence[tuple[str, str, Callable[[Row], float]]],
) -> Curves:  # fmt: skip
    """Return a line per ``series`` (rows, name, value) and run; noisy training rows are thin, with a running mean."""
    noisy = key in {"loss", "norm", "speed"}
    lines: dict[str, list[Line]] = {}
    for x_axis in X:
        lines[x_axis] = []
        for number, (history, name) in enumerate(zip(histories, names, strict=True)):
            for rows, label, value in series:
                points = [(float(row[x_axis]), value(row)) for row in getattr(history, rows)]
                points = [point for point in points if not math.isnan(point[1])]
                thin = rows == "training" and noisy
                if not points:
                    continue
                prefix = [name] if len(histories) > 1 else []
                if thin and key != "loss":
                    lines[x_axis].append(Line(" ".join([*prefix, "measured"]), points, number, "thin"))
                    lines[x_axis].append(Line(" ".join([*prefix, "smoothed"]), running_mean(points), number))
                else:
                    text = " ".join([*prefix, label]) or title.lower()
                    lines[x_axis].append(Line(text.strip(), points, number, "thin" if thin else "bold"))
    return Curves(key, title, Axis(unit, log=key in LOG_KEYS), lines)


def _bits(histories: Sequence[RunHistory], names: Sequence[str], published: Sequence[PublishedCurve]) -> Curves:
    """Return the bits per byte of the validations, with the published curves of these presets."""
    chart = _chart("bits", "Bits per byte", "bits", histories, names, [("validation", "", _of("bits_per_byte"))])
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
