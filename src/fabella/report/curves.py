"""Which curves are drawn of runs, and against what."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabella.report.charts import Axis, Line
from fabella.report.published_curves import Reference
from fabella.report.run_history import Row, RunHistory

X = {
    "step": Axis("optimizer steps"),
    "tokens": Axis("tokens"),
    "seconds": Axis("time of training", "seconds"),
    "flops": Axis("floating-point operations"),
}
LOGARITHMIC = {"loss", "bits", "perplexity", "norm", "scale"}
SMOOTHED = 0.05
"""Share of all points over which a noisy curve is averaged."""


@dataclass(frozen=True, slots=True)
class Curves:
    """One chart: its lines against each of ``history.AGAINST``."""

    key: str
    title: str
    y: Axis
    lines: dict[str, list[Line]]


def curves(histories: Sequence[RunHistory], names: Sequence[str], references: Sequence[Reference] = ()) -> list[Curves]:
    """All charts of these runs that have something to show; references stand behind the loss in bits per byte."""
    found = [
        _chart("loss", "Loss", "nats a token", histories, names, [("training", "training", _of("loss")),
                                                                 ("validation", "validation", _of("loss"))]),
        _bits(histories, names, references),
        _chart("perplexity", "Perplexity", "", histories, names,
               [("validation", "validation", lambda row: math.exp(min(_of("loss")(row), 700.0)))]),
        _chart("lr", "Learning rate", "", histories, names, [("training", "", _of("lr"))]),
        _chart("speed", "Speed", "tokens a second", histories, names, [("training", "", _of("tokens_per_second"))]),
        _chart("norm", "Gradient norm", "", histories, names, [("training", "", _of("grad_norm"))]),
        _chart("memory", "Peak memory", "bytes", histories, names, [("training", "", _of("peak_memory_bytes"))]),
        _chart("scale", "Loss scale", "", histories, names, [("training", "", _of("loss_scale"))]),
    ]  # fmt: skip
    return [each for each in found if any(line.points for line in each.lines["step"])]


def _of(key: str) -> Callable[[Row], float]:
    """A number of a row; not a number where it has none, or null."""

    def value(row: Row) -> float:
        found = row.get(key)
        return float(found) if isinstance(found, int | float) else math.nan

    return value


def _chart(
    key: str, title: str, unit: str, histories: Sequence[RunHistory], names: Sequence[str],
    series: Sequence[tuple[str, str, Callable[[Row], float]]],
) -> Curves:  # fmt: skip
    """One curve of each ``series`` (rows, name, value) for each run; training rows thin, with their mean over them."""
    noisy = key in {"loss", "norm", "speed"}
    lines: dict[str, list[Line]] = {}
    for against in X:
        lines[against] = []
        for number, (history, name) in enumerate(zip(histories, names, strict=True)):
            for rows, word, value in series:
                points = [(float(row[against]), value(row)) for row in getattr(history, rows)]
                points = [point for point in points if not math.isnan(point[1])]
                thin = rows == "training" and noisy
                if not points:
                    continue
                named = [name] if len(histories) > 1 else []
                if thin and key != "loss":
                    lines[against].append(Line(" ".join([*named, "measured"]), points, number, "thin"))
                    lines[against].append(Line(" ".join([*named, "smoothed"]), smoothed(points), number))
                else:
                    label = " ".join([*named, word]) or title.lower()
                    lines[against].append(Line(label.strip(), points, number, "thin" if thin else "bold"))
    return Curves(key, title, Axis(unit, log=key in LOGARITHMIC), lines)


def _bits(histories: Sequence[RunHistory], names: Sequence[str], references: Sequence[Reference]) -> Curves:
    """Bits per byte while training, with the reference curves of the presets that these runs are."""
    chart = _chart("bits", "Bits per byte", "bits", histories, names, [("validation", "", _of("bits_per_byte"))])
    for against, lines in chart.lines.items():
        lines[:0] = [
            Line(f"reference: {reference.preset}", points, 0, "reference")
            for reference in references
            if (points := reference.points.get(against))
        ]
    return chart


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A running mean over the points on either side, shorter at the ends."""
    reach = max(1, round(len(points) * SMOOTHED / 2))
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    found: list[tuple[float, float]] = []
    for place, (x, _) in enumerate(points):
        side = min(reach, place, len(points) - 1 - place)
        found.append((x, (sums[place + side + 1] - sums[place - side]) / (2 * side + 1)))
    return found
