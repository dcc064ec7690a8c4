"""Charts: round ticks, thinning that keeps the picture, gaps that stay gaps, and SVG that parses and escapes."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from tempering.report.charts import HEIGHT, Line, interval, line_chart, log_ticks, shares, smooth, thin, ticks
from tempering.report.curves import Curve, say


def curve(*values: float, name: str = "loss") -> Curve:
    return Curve(name, tuple(range(1, len(values) + 1)), values)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1.0]),
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (0.93, 2.41, [1.0, 1.5, 2.0]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (1, 180, [50, 100, 150]),
        (3, 3, [3]),
        (0, 2e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.5, 2000, [1, 10, 100, 1000]), (2, 300, [2, 5, 10, 20, 50, 100, 200][::2]), (1e-3, 1e3, [10.0**e for e in range(-3, 4)][::2])],
)
def test_log_ticks(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"), (1, "1"), (0.5, "0.5"), (1.2345, "1.23"), (-0.0456, "\u22120.0456"), (1234.6, "1,235"), (1234567, "1,234,567"), (0.9999, "1.00"),
        (2e-4, "2e\u22124"), (1.93e-5, "1.93e\u22125"), (-3e8, "\u22123e8"), (math.nan, "n/a"), (None, "n/a"), (999.6, "1,000"), (100.0, "100"),
    ],
)  # fmt: skip
def test_say(value: float | None, expected: str) -> None:
    assert say(value) == expected


def test_thinning_keeps_ends_extremes_and_gaps() -> None:
    values = [math.sin(i / 50) for i in range(5000)]
    values[2222], values[3333] = 40.0, math.nan
    thinned = thin(curve(*values), 400)
    assert len(thinned) <= 401
    assert list(thinned.steps) == sorted(set(thinned.steps))
    assert max(thinned.finite.values) == 40.0
    assert min(thinned.finite.values) == min(v for v in values if not math.isnan(v))
    assert [step for step, value in zip(thinned.steps, thinned.values, strict=True) if math.isnan(value)] == [3334]
    assert thin(curve(1.0, 2.0), 400) == curve(1.0, 2.0)


def test_smoothing_is_a_running_median_that_keeps_gaps() -> None:
    found = smooth(curve(1.0, 9.0, 2.0, math.nan, 3.0))
    assert found.values[:3] == (5.0, 2.0, 5.5)
    assert math.isnan(found.values[3]) and found.values[4] == 3.0


def parse(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def test_a_gap_splits_the_line_and_is_marked() -> None:
    figure = parse(line_chart("Loss", [Line("train", curve(3.0, 2.0, math.nan, 1.0, 0.5))]))
    (line,) = [path for path in figure.findall(".//{*}path") if path.get("class") == "line l0"]
    commands = re.findall(r"[ML]", line.get("d", ""))
    assert commands == ["M", "L", "M", "L"]
    assert len([path for path in figure.findall(".//{*}path") if path.get("class") == "gap"]) == 1
    label = figure.findall(".//{*}svg")[0].get("aria-label")
    assert label == "Loss, step 1 to 5. train: first 3, last 0.5, lowest 0.5, highest 3, 1 not a number."


def test_points_lie_where_their_values_are() -> None:
    figure = parse(line_chart("Loss", [Line("test", curve(0.0, 1.0), dots=True)], low_at=1))
    dots = figure.findall(".//{*}circle")
    assert [dot.get("cx") for dot in dots] == ["44.0", "350.0"]
    assert float(dots[0].get("cy", "nan")) == HEIGHT - 24
    assert float(dots[1].get("cy", "nan")) == pytest.approx(10 + (HEIGHT - 34) * 0.06 / 1.06, abs=0.06)
    assert dots[0].get("class") == "dot l0 best" and dots[1].get("class") == "dot l0"


def test_values_over_many_powers_of_ten_are_drawn_on_a_log_scale() -> None:
    values = [10.0**e for e in range(-2, 4)]
    figure = line_chart("Gradient norm", [Line("train", curve(*values))])
    assert "log scale" in figure
    (line,) = [path for path in parse(figure).findall(".//{*}path") if path.get("class") == "line l0"]
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.get("d", ""))]
    gaps = [a - b for a, b in pairwise(heights)]
    assert gaps == pytest.approx([gaps[0]] * 5, abs=0.11)
    assert "log scale" not in line_chart("Loss", [Line("train", curve(0.0, 1000.0))])


@pytest.mark.parametrize("values", [(2.0,), (0.0, 0.0, 0.0), (-1.0, -1.0), (1e-9, 2e-9), (1e12, 2e12), (5.0, math.nan)])
def test_odd_curves_still_give_finite_coordinates(values: tuple[float, ...]) -> None:
    figure = line_chart("Loss", [Line("train", curve(*values))])
    parse(figure)
    assert "nan" not in figure.replace("n/a", "").lower() and "inf" not in figure.lower()


def test_nothing_to_draw_draws_nothing() -> None:
    assert line_chart("Loss", [Line("train", curve(math.nan, math.nan))]) == ""


def test_names_are_escaped() -> None:
    figure = line_chart('<img src=x onerror="a()">', [Line('"><script>', curve(1.0, 2.0)), Line("b", curve(1.0, 2.0))])
    parse(figure)
    assert "<img" not in figure and "<script" not in figure


def test_a_wide_chart_is_drawn_in_both_shapes() -> None:
    drawings = list(parse(line_chart("Loss", [Line("train", curve(1.0, 2.0))], span=3)).findall(".//{*}svg"))
    assert [(svg.get("class"), svg.get("viewBox")) for svg in drawings] == [("narrow", "0 0 360 190"), ("wide", "0 0 1148 190")]


def test_interval_has_zero_in_the_middle_and_better_on_the_right() -> None:
    svg = parse(interval(0.25, 0.125, 0.5, 0.5, "gain", "a <b>"))
    (bar,), (dot,) = svg.findall("{*}rect"), svg.findall("{*}circle")
    assert (bar.get("x"), bar.get("width"), dot.get("cx")) == ("50.00%", "24.00%", "74.00%")
    whisker = svg.findall("{*}g/{*}line")
    assert [(line.get("x1"), line.get("x2")) for line in whisker] == [("62.00%", "98.00%"), ("62.00%", "62.00%"), ("98.00%", "98.00%")]
    worse = parse(interval(-0.5, None, None, 1.0, "loss", ""))
    assert (worse.findall("{*}rect")[0].get("x"), worse.findall("{*}circle")[0].get("cx")) == ("26.00%", "26.00%")
    assert len(worse.findall("{*}g/{*}line")) == 1
    assert svg.get("aria-label") == "a <b>"


def test_shares_fill_the_width_in_order() -> None:
    svg = parse(shares([("kept", 5), ("gained", 0), ("lost", 15)], "x"))
    assert [(rect.get("class"), rect.get("x"), rect.get("width")) for rect in svg] == [("kept", "0.00%", "25.00%"), ("lost", "25.00%", "75.00%")]
    assert len(parse(shares([("kept", 0)], "x"))) == 0
