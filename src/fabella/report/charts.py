"""A chart as SVG inside the page: readable without a script, on paper, and by who cannot see it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from fabella.report.axes import bounds, duration, log_ticks, number, second_ticks, ticks

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 44
BUCKETS = 300
"""Of the points that fall into the same narrow column, the lowest and the highest are drawn."""
LOG_FROM = 8.0

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: where it is, what it is called, and how it looks. ``color``: the number of its run."""

    name: str
    points: Points
    color: int = 0
    style: str = "bold"
    """bold, thin (many noisy points), dots (unconnected), or reference (dashed and grey)."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis tells. ``kind``: number or seconds; ``log``: whether it may be logarithmic, and is where the largest
    value is more than ``log_from`` times the smallest.
    """

    label: str
    kind: str = "number"
    log: bool = False
    log_from: float = LOG_FROM

    def is_log(self, low: float, high: float) -> bool:
        """Whether it is logarithmic for these values."""
        return self.log and low > 0 and high / low > self.log_from

    @property
    def write(self) -> Callable[[float], str]:
        """A value as it is written beside the axis."""
        return duration if self.kind == "seconds" else number


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """The lines in one frame; where there is no finite point at all, a sentence instead."""
    drawn = [Line(line.name, finite(line.points), line.color, line.style) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return f'<p class="nothing">{escape(title)}: nothing was measured.</p>'
    across, up = _scales(drawn, x, y)
    parts = [_frame(across, up, x, y), *(_path(line, across, up) for line in drawn)]
    numbers = f'data-x="{_range(across)}" data-y="{_range(up)}" data-kind="{x.kind}"'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" {numbers} '
        f'aria-label="{escape(_described(title, drawn, x, y))}">{"".join(parts)}</svg>'
    )


def _range(scale: Scale) -> str:
    return f"{scale.low},{scale.high},{int(scale.log)}"


def finite(points: Points) -> list[tuple[float, float]]:
    """The points that can be drawn."""
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _scales(lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> tuple[Scale, Scale]:
    x_low, x_high = bounds([x for line in lines for x, _ in line.points])
    y_low, y_high = bounds([y for line in lines for _, y in line.points])
    along = x_axis.is_log(x_low, x_high)
    up = y_axis.is_log(y_low, y_high)
    if not along:
        x_low = min(x_low, 0.0)
    if not up:
        room = (y_high - y_low) * 0.05
        y_low, y_high = (0.0 if 0 <= y_low < room * 4 else y_low - room), y_high + room
    return Scale(x_low, x_high, LEFT, WIDTH - RIGHT, along), Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, up)


def _frame(across: Scale, up: Scale, x: Axis, y: Axis) -> str:
    """Grid, ticks and the names of the axes."""
    below = second_ticks(across.low, across.high) if x.kind == "seconds" else _ticks(across)
    marks = [
        f'<path class="grid" d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{y.write(tick)}</text>'
        for tick in _ticks(up)
    ]
    marks += [
        f'<path class="tick" d="M{across(tick):.1f} {HEIGHT - BOTTOM}v5"/>'
        f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{x.write(tick)}</text>'
        for tick in below
    ]
    names = (
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(_named(x, across))}</text>"
        f'<text class="axis" x="14" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2})">{escape(_named(y, up))}</text>'
    )
    return "".join(marks) + names + f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _ticks(scale: Scale) -> list[float]:
    return log_ticks(scale.low, scale.high) if scale.log else ticks(scale.low, scale.high)


def _named(axis: Axis, scale: Scale) -> str:
    return ", ".join(part for part in (axis.label, "logarithmic" if scale.log else "") if part)


def _path(line: Line, across: Scale, up: Scale) -> str:
    places = [(across(x), up(y)) for x, y in thinned(line.points)]
    words = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    name = f'class="line {line.style} run-{line.color % 8}" data-name="{escape(line.name)}"'
    if len(places) == 1 or line.style == "dots":
        return "".join(f'<circle {name} cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places)
    return f'<path {name} d="M{words}"/>'


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most two points a column of the picture, so that no peak is lost and the page stays small."""
    if len(points) <= 2 * BUCKETS:
        return list(points)
    low, high = points[0][0], points[-1][0]
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int((point[0] - low) / ((high - low) or 1.0) * (BUCKETS - 1)), []).append(point)
    kept: list[tuple[float, float]] = []
    for column in columns.values():
        ends = {min(column, key=lambda point: point[1]), max(column, key=lambda point: point[1])}
        kept += sorted(ends)
    kept[0], kept[-1] = points[0], points[-1]
    return kept


def _described(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """The chart in words."""
    told = [f"{line.name} from {y.write(line.points[0][1])} to {y.write(line.points[-1][1])}" for line in lines]
    end = x.write(max(line.points[-1][0] for line in lines))
    return f"{title} against {x.label}, up to {end}: {'; '.join(told)}. Arrow keys read it."
