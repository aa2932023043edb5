"""Line charts as SVG in a page, readable without JavaScript, on paper and by screen readers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from fabella.report.axes import bounds, log_ticks, number, numbers, second_ticks, ticks
from fabella.storage import format_duration

WIDTH, HEIGHT = 460, 280
"""Size of a chart in its own units; a page scales it. So few that its texts stay readable on a phone."""
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 32, 52
BUCKETS = 300
"""Columns of a chart; of the points in one column only the lowest and the highest are drawn."""
LOG_FROM = 8.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """Curve with a name and a style; ``color`` is the number of its run."""

    name: str
    points: Points
    color: int = 0
    style: str = "bold"
    """bold, thin (many noisy points, or one of several runs), dots (not connected), or reference (dotted and gray)."""
    spread: Sequence[float] = ()
    """Deviation at each point, drawn as an area of ± deviation around the line; empty for none. Then all are finite."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Axis with a label. ``kind``: number, count (its ticks are whole numbers) or seconds. ``log``: logarithmic if all
    values are positive and the largest is more than ``log_from`` times the smallest.
    """

    label: str
    kind: str = "number"
    log: bool = False
    log_from: float = LOG_FROM

    def is_log(self, low: float, high: float) -> bool:
        """Return whether the axis is logarithmic for values from ``low`` to ``high``."""
        return self.log and low > 0 and high / low > self.log_from

    def text(self, value: float) -> str:
        """Return a value as it is written."""
        return format_duration(value) if self.kind == "seconds" else number(value)

    def ticks(self, scale: "Scale") -> list[tuple[float, str]]:
        """Return the ticks of the axis with their texts."""
        if self.kind == "seconds":
            return [(value, format_duration(value)) for value in second_ticks(scale.low, scale.high)]
        if scale.log:
            values = log_ticks(scale.low, scale.high)
        else:
            values = ticks(scale.low, scale.high, whole=self.kind == "count")
        return list(zip(values, numbers(values), strict=True))


@dataclass(frozen=True, slots=True)
class Scale:
    """Map from values to coordinates of the image."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, position = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (position - low) / (high - low) * (self.end - self.start)


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return a chart of the lines as SVG, or a paragraph if no point is finite."""
    drawn = [line if line.spread else replace(line, points=finite(line.points)) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return f'<p class="nothing">{escape(title)}: no measurements.</p>'
    across, up = _scales(drawn, x, y)
    bands = [_band(line, across, up) for line in drawn if line.spread]
    parts = [_frame(across, up, x, y), *bands, *(_path(line, across, up) for line in drawn)]
    numbers = f'data-x="{_range(across)}" data-y="{_range(up)}" data-kind="{x.kind}" data-frame="{_FRAME}"'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" {numbers} '
        f'aria-label="{escape(_description(title, drawn, x, y))}">{"".join(parts)}</svg>'
    )


_FRAME = f"{LEFT},{WIDTH - RIGHT},{TOP},{HEIGHT - BOTTOM}"
"""Left, right, top and bottom of the area of the curves."""


def caption(lines: Sequence[Line], note: str = "") -> str:
    """Return the caption of a figure: each line as it is drawn, with its name; the script adds values there."""
    entries = "".join(
        f'<li data-name="{escape(line.name)}"><svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        f"{_swatch(line)}</svg>{escape(line.name)} <output></output></li>"
        for line in {line.name: line for line in lines}.values()
    )
    text = f"<p>{escape(note)}</p>" if note else ""
    return f'<figcaption><ul class="keys">{entries}</ul>{text}<p class="at"></p></figcaption>'


def _swatch(line: Line) -> str:
    kind = _classes(line)
    if line.style == "dots":
        return f'<circle class="{kind}" cx="14" cy="6" r="3.5"/>'
    band = f'<path class="band run-{line.color % 8}" d="M0 1H28V11H0Z"/>' if line.spread else ""
    return f'{band}<path class="{kind}" d="M0 6H28"/>'


def _classes(line: Line) -> str:
    return f"line {line.style} run-{line.color % 8}"


def _range(scale: Scale) -> str:
    return f"{scale.low},{scale.high},{int(scale.log)}"


def finite(points: Points) -> list[tuple[float, float]]:
    """Return the points with finite coordinates."""
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _scales(lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> tuple[Scale, Scale]:
    x_low, x_high = bounds([x for line in lines for x, _ in line.points])
    values = [y for line in lines for _, y in line.points]
    edges = [edge for line in lines for edge in _edges(line) if edge > 0 or min(values) <= 0]
    y_low, y_high = bounds([*values, *edges])
    x_log = x_axis.is_log(x_low, x_high)
    y_log = y_axis.is_log(y_low, y_high)
    if not x_log:
        x_low = min(x_low, 0.0)
    if not y_log:
        margin = (y_high - y_low) * 0.05
        y_low, y_high = (0.0 if 0 <= y_low < margin * 4 else y_low - margin), y_high + margin
    return Scale(x_low, x_high, LEFT, WIDTH - RIGHT, x_log), Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, y_log)


def _edges(line: Line) -> list[float]:
    """Return the ends of the deviation at all points of a line."""
    pairs = zip(line.points, line.spread, strict=True) if line.spread else ()
    return [edge for (_, y), by in pairs for edge in (y - by, y + by)]


def _frame(across: Scale, up: Scale, x: Axis, y: Axis) -> str:
    """Return the grid, the ticks and the labels of the axes."""
    marks = [
        f'<path class="grid" d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{text}</text>'
        for tick, text in y.ticks(up)
    ]
    marks += [
        f'<path class="tick" d="M{across(tick):.1f} {HEIGHT - BOTTOM}v5"/>'
        f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{text}</text>'
        for tick, text in x.ticks(across)
    ]
    labels = (
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(_label(x, across))}</text>"
        f'<text class="axis" x="2" y="14">{escape(_label(y, up))}</text>'
    )
    return "".join(marks) + labels + f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _label(axis: Axis, scale: Scale) -> str:
    return ", ".join(part for part in (axis.label, "logarithmic" if scale.log else "") if part)


def _path(line: Line, across: Scale, up: Scale) -> str:
    points = [(across(x), up(y)) for x, y in thin(line.points)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    name = f'class="{_classes(line)}" data-name="{escape(line.name)}"'
    if len(points) == 1 or line.style == "dots":
        return "".join(f'<circle {name} cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points)
    return f'<path {name} d="M{path}"/>'


def _band(line: Line, across: Scale, up: Scale) -> str:
    """Return the area between the line minus and plus its deviation; a logarithmic axis cuts it at its end."""
    above = [(x, y + by) for (x, y), by in zip(line.points, line.spread, strict=True)]
    below = [(x, max(y - by, up.low)) for (x, y), by in zip(line.points, line.spread, strict=True)]
    path = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in [*above, *reversed(below)])
    return f'<path class="band run-{line.color % 8}" d="M{path}Z"/>'


def thin(points: Points) -> list[tuple[float, float]]:
    """Return at most two points per column of the chart, so that every peak stays and the page is small."""
    if len(points) <= 2 * BUCKETS:
        return list(points)
    low, high = points[0][0], points[-1][0]
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int((point[0] - low) / ((high - low) or 1.0) * (BUCKETS - 1)), []).append(point)
    extremes: list[tuple[float, float]] = []
    for column in columns.values():
        ends = {min(column, key=lambda point: point[1]), max(column, key=lambda point: point[1])}
        extremes += sorted(ends)
    extremes[0], extremes[-1] = points[0], points[-1]
    return extremes


def _description(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Describe the chart in words for screen readers."""
    ranges = [f"{line.name} from {y.text(line.points[0][1])} to {y.text(line.points[-1][1])}" for line in lines]
    end = x.text(max(line.points[-1][0] for line in lines))
    return f"{title} against {x.label}, up to {end}: {'; '.join(ranges)}. Arrow keys move the cursor."
