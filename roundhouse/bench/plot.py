"""Line plots as inline SVG: axes with units, a legend beside the lines, colours that hold in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "plot"]

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 40, 52
_COLOURS = 6
_MOST_POINTS = 600


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) in order of x. `steps`: a value holds until the next one."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


def plot(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """An `<svg>` element. Labels name quantity and unit. No points anywhere: an empty text."""
    shown = [line for line in lines if line.points]
    if not shown:
        return ""
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(0.0, *ys), max(ys))
    place = _Place(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>',
        *_grid(place, x_ticks, y_ticks),
        f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 10}">{escape(x_label)}</text>',
        f'<text class="label" transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">'
        f"{escape(y_label)}</text>",
    ]
    for number, line in enumerate(shown):
        parts.append(f'<path class="line c{number % _COLOURS}" d="{_path(place, line)}"/>')
    return "".join([*parts, "</svg>", _legend(shown)])


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round values from at most `low` to at least `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Place:
    """From values to the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(place: _Place, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    parts = []
    for value in x_ticks:
        x = place.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 21}">{_number(value)}</text>')
    for value in y_ticks:
        y = place.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{_number(value)}</text>')
    return parts


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{round(value, 9):.6g}"


def _path(place: _Place, line: Line) -> str:
    points = _thinned(line.points)
    pieces: list[str] = []
    for x, y in points:
        at = f"{place.x(x):.1f}"
        if not pieces:
            pieces.append(f"M{at} {place.y(y):.1f}")
        else:
            pieces.append(f"H{at}V{place.y(y):.1f}" if line.steps else f"L{at} {place.y(y):.1f}")
    return "".join(pieces) + ("h0.1" if len(points) == 1 else "")


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most so many, first and last among them: a browser need not draw a million."""
    if len(points) <= _MOST_POINTS:
        return points
    step = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(number * step)] for number in range(_MOST_POINTS)]


def _legend(lines: Sequence[Line]) -> str:
    """Outside the picture, so that it lies on no line and wraps where there are many."""
    entries = (
        f'<li><span class="mark c{number % _COLOURS}"></span>{escape(line.name)}</li>'
        for number, line in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'
