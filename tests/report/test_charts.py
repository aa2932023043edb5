"""Tests that charts keep every curve in the frame with its peaks, and have a description in words."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.report.charts import BUCKETS, HEIGHT, LEFT, WIDTH, Axis, Line, caption, chart, thin

X, Y = Axis("steps"), Axis("loss", log=True)
POINTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6) | st.just(math.nan)), min_size=1, max_size=40)


def parse_svg(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@given(points=POINTS, log=st.booleans())
def test_every_curve_stays_in_its_frame(points: list[tuple[float, float]], log: bool) -> None:
    made = chart("Loss", [Line("a", sorted(points))], X, Axis("loss", log=log))
    if all(math.isnan(y) for _, y in points):
        assert made == '<p class="nothing">Loss: no measurements.</p>'
        return
    for path in parse_svg(made).iter("path"):
        if "line" in path.attrib["class"].split():
            for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"]):
                assert LEFT - 1 <= float(x) <= WIDTH
                assert 0 <= float(y) <= HEIGHT


@given(points=POINTS, by=st.floats(0, 1e6), log=st.booleans())
def test_the_deviation_of_a_curve_stays_in_its_frame(points: list[tuple[float, float]], by: float, log: bool) -> None:
    kept = sorted(point for point in points if math.isfinite(point[1]))
    if kept:
        made = chart("Loss", [Line("a", kept, spread=[by] * len(kept))], X, Axis("loss", log=log))
        (band,) = (path for path in parse_svg(made).iter("path") if path.attrib["class"].startswith("band"))
        for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", band.attrib["d"]):
            assert LEFT - 1 <= float(x) <= WIDTH
            assert 0 <= float(y) <= HEIGHT


def test_the_caption_shows_each_line_as_it_is_drawn() -> None:
    lines = [Line("a", [(0, 1)], 0, "thin"), Line("b <i>", [(0, 1)], 9), Line("c", [(0, 1)], style="dots"),
             Line("d", [(0, 1)], 2, spread=[0.5])]  # fmt: skip
    made = parse_svg(caption(lines, "50 % & more"))
    entries = list(made.iter("li"))
    assert [entry.attrib["data-name"] for entry in entries] == ["a", "b <i>", "c", "d"]
    drawn = [next(part for part in entry.iter() if "line" in part.attrib.get("class", "").split()) for entry in entries]
    assert [part.attrib["class"] for part in drawn] == [
        "line thin run-0", "line bold run-1", "line dots run-0", "line bold run-2",
    ]  # fmt: skip
    assert [any("band" in part.attrib.get("class", "") for part in entry.iter()) for entry in entries] == [
        False, False, False, True,
    ]  # fmt: skip


def test_a_chart_describes_itself_in_words() -> None:
    svg = parse_svg(chart("Loss", [Line("one", [(1, 8.0), (760, 0.25)]), Line("two", [(1, 4.0), (10, 2.0)])], X, Y))
    assert svg.attrib["role"] == "img"
    assert svg.attrib["tabindex"] == "0"
    assert svg.attrib["aria-label"].startswith("Loss against steps, up to 760: one from 8 to 0.25; two from 4 to 2.")


def test_the_name_of_a_run_is_escaped() -> None:
    made = chart('"><script>', [Line('<img src=x onerror="a">', [(0, 1.0), (1, 2.0)])], X, Y)
    assert "<script" not in made
    assert "<img" not in made
    parse_svg(made)


def test_an_axis_is_logarithmic_only_for_positive_values_of_a_large_ratio() -> None:
    def log(*values: float) -> bool:
        made = parse_svg(chart("Loss", [Line("a", list(enumerate(values)))], X, Y))
        return made.attrib["data-y"].endswith(",1")

    assert log(8.0, 0.2)
    assert not log(2.0, 1.0)
    assert not log(8.0, 0.0)


def test_equal_factors_have_equal_distances_on_a_logarithmic_axis() -> None:
    svg = parse_svg(chart("Rates", [Line("a", [(1e-4, 1.0), (1e-3, 2.0), (1e-2, 3.0)])], Axis("rate", log=True), Y))
    assert svg.attrib["data-x"] == "0.0001,0.01,1"
    labels = [text.text for text in svg.iter("text")]
    assert {"0.0001", "0.001", "0.01", "rate, logarithmic"} <= set(labels)
    (path,) = [path.attrib["d"] for path in svg.iter("path") if "line" in path.attrib["class"].split()]
    first, middle, last = (float(pair.split()[0]) for pair in path.removeprefix("M").split("L"))
    assert middle - first == pytest.approx(last - middle, abs=0.2)


@given(seed=st.integers(0, 1000), count=st.integers(2 * BUCKETS + 1, 5000), peak=st.integers(0, 2 * BUCKETS))
def test_thinning_keeps_every_peak_and_both_ends(seed: int, count: int, peak: int) -> None:
    values = np.random.default_rng(seed).normal(size=count).tolist()
    values[peak] = 1e6
    points = [(float(step), value) for step, value in enumerate(values)]
    thinned = thin(points)
    assert len(thinned) <= 2 * BUCKETS
    assert (points[0], points[-1]) == (thinned[0], thinned[-1])
    assert max(y for _, y in thinned) == 1e6
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
