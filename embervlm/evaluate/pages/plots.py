"""Line charts as inline SVG. Colours are classes, so that they follow the page into dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 30
SMOOTH_FROM = 40
"""A line of so many points and more is drawn faintly, with its running mean over it."""


@dataclass(frozen=True)
class Line:
    """One curve. `kind` chooses the colour (a CSS class)."""

    name: str
    kind: str
    xs: Sequence[float]
    ys: Sequence[float]


def line_chart(lines: Sequence[Line], label: str, percent: bool = False, mark: float | None = None) -> str:
    """An <svg> of curves over steps; "" when no curve has two finite points.

    label: what it shows, for people who cannot see it. percent: values are 0 to 1. mark: a target, dashed.
    """
    kept = [clean for line in lines if len((clean := _finite(line)).xs) > 1]
    if not kept:
        return ""
    x_low, x_high = _range([x for line in kept for x in line.xs])
    y_values = [y for line in kept for y in line.ys] + ([] if mark is None else [mark])
    y_ticks = ticks(*_range(y_values))
    y_low, y_high = min(y_ticks[0], min(y_values)), max(y_ticks[-1], max(y_values))

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in y_ticks:
        x, y = place(x_low, tick).split(",")
        text = f"{100 * tick:g}%" if percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{HEIGHT - 8}" text-anchor="end">step</text>')
    for tick in ticks(x_low, x_high, 4):
        if x_low < tick <= x_high:
            x = place(tick, y_low).split(",")[0]
            parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="middle">{tick:,.0f}</text>')
    if mark is not None:
        x, y = place(x_low, mark).split(",")
        parts.append(f'<line class="mark" x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    for line in kept:
        css = escape(line.kind)
        if len(line.xs) >= SMOOTH_FROM:
            parts.append(f'<path class="line raw {css}" d="{_path(line, place)}"/>')
            line = Line(line.name, line.kind, line.xs, running_mean(line.ys))
        parts.append(f'<path class="line {css}" d="{_path(line, place)}"><title>{escape(line.name)}</title></path>')
        last = place(line.xs[-1], line.ys[-1]).split(",")
        parts.append(f'<circle class="dot {css}" cx="{last[0]}" cy="{last[1]}" r="3.2"/>')
    return "".join(parts) + "</svg>"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that cover low to high in about so many steps."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * at, 12) for at in range(first, last + 1)]


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a centred window of about a twentieth of the points, narrower at the ends so that it does not lag."""
    half = max(1, len(values) // 40)
    means = []
    for at in range(len(values)):
        reach = min(half, at, len(values) - 1 - at)
        part = values[at - reach : at + reach + 1]
        means.append(sum(part) / len(part))
    return means


def _path(line: Line, place) -> str:
    return "M" + " L".join(place(x, y) for x, y in zip(line.xs, line.ys, strict=True))


def _finite(line: Line) -> Line:
    points = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Line(line.name, line.kind, [x for x, _ in points], [y for _, y in points])


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))
