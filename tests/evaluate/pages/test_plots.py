"""Charts stay inside their frame and never invent points."""

import math
import re
from xml.etree import ElementTree

import pytest

from embervlm.evaluate.pages.plots import HEIGHT, WIDTH, Line, line_chart, running_mean, ticks


def test_a_chart_is_well_formed_and_inside_its_frame():
    line = Line('<b>"with" & without</b>', "student", list(range(100)), [math.sin(x / 9) for x in range(100)])
    svg = line_chart([line], 'loss "<x>"', mark=0.5)
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'loss "<x>"'
    for path in root.iter("path"):
        points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", path.get("d"))]
        assert len(points) == 100
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_nothing_to_draw_draws_nothing():
    assert line_chart([], "x") == ""
    assert line_chart([Line("a", "student", [1], [2.0])], "x") == ""
    assert line_chart([Line("a", "student", [1, 2], [math.nan, math.inf])], "x") == ""


def test_a_constant_line_is_drawn():
    assert "<path" in line_chart([Line("a", "student", [0, 10], [0.0, 0.0])], "x")


def test_points_that_are_not_numbers_are_left_out():
    svg = line_chart([Line("a", "student", [1, 2, 3], [1.0, math.nan, 2.0])], "x")
    assert len(re.findall(r"[\d.]+,[\d.]+", ElementTree.fromstring(svg).find("path").get("d"))) == 2


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.34), (-3, 7), (0, 12345), (1e-6, 3e-6)])
def test_ticks_cover_the_range_in_round_steps(low, high):
    found = ticks(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12 and 2 <= len(found) <= 8


def test_the_running_mean_does_not_lag():
    values = [float(x) for x in range(200)]
    assert running_mean(values) == pytest.approx(values)
