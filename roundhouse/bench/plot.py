"""Line plots as inline SVG: axes with units, a legend beside the lines, colours that hold in light and in dark.

Lines differ in their dashes too, for who cannot tell the colours apart or prints them. A picture is as wide as a
telephone held upright, so that its text needs no shrinking there; on a wider screen two stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from roundhouse.bench.scale import Scale, written

__all__ = ["Frame", "Line", "Mark", "plot"]

_WIDTH, _HEIGHT = 460, 280
_RIGHT, _TOP, _BOTTOM = 22, 40, 50
_LABEL, _CHARACTER = 30, 7.2  # of the space at the left: for the label, for a character of the longest tick
_COLOURS = 6
_MOST_POINTS = 600
_APART = 16.0
_DOT = 3


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) in order of x. `steps`: a value holds until the next one. `bars`: intervals (x, low, high), whose
    points are drawn as dots.
    """

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False
    bars: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at `x`."""

    x: float
    what: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What pictures that belong together share: the x axis, what was not measured, what happened. None = as the points
    are.
    """

    x: tuple[float, float] | None = None
    shaded: Sequence[tuple[float, float]] = ()
    marks: Sequence[Mark] = ()
    log_x: bool = False


_PLAIN = Frame()


def plot(title: str, x_label: str, y_label: str, lines: Sequence[Line], frame: Frame = _PLAIN) -> str:
    """A `<figure>`. Labels name quantity and unit. No points anywhere: an empty text."""
    shown = [line for line in lines if line.points]
    if not shown:
        return ""
    place = _placed(shown, frame)
    middle = (place.left + _WIDTH - _RIGHT) / 2
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{place.left:.0f}" y="16">{escape(title)}</text>',
        *(_shade(place, begin, end) for begin, end in frame.shaded if end > begin),
        *_grid(place),
        f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 10}">{escape(x_label)}</text>',
        f'<text class="label" transform="translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">'
        f"{escape(y_label)}</text>",
        *_marks(place, frame.marks),
    ]
    for number, line in enumerate(shown):
        parts.append(f'<path class="line c{number % _COLOURS}" d="{_path(place, line)}"/>')
        parts += _bars(place, line, number % _COLOURS)
    return "".join(["<figure>", *parts, "</svg>", _legend(shown), _told(frame.marks), "</figure>"])


@dataclass(frozen=True, slots=True)
class _Place:
    """From values to the picture."""

    xs: Scale
    ys: Scale
    left: float

    def x(self, value: float) -> float:
        return self.left + self.xs.share(value) * (_WIDTH - _RIGHT - self.left)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - self.ys.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _placed(lines: Sequence[Line], frame: Frame) -> _Place:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [
        end for line in lines for _, *ends in line.bars for end in ends
    ]
    low, high = frame.x or (min(xs), max(xs))
    across, up = Scale.over(low, high, log=frame.log_x), Scale.over(min(0.0, *ys), max(ys))
    return _Place(across, up, _LABEL + _CHARACTER * max(len(said) for _, said in written(up.ticks)))


def _grid(place: _Place) -> list[str]:
    parts = []
    for value, said in written(place.xs.ticks):
        x = place.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 20}">{said}</text>')
    for value, said in written(place.ys.ticks):
        y = place.y(value)
        parts.append(f'<line class="grid" x1="{place.left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{place.left - 6:.1f}" y="{y + 4:.1f}">{said}</text>')
    return parts


def _shade(place: _Place, begin: float, end: float) -> str:
    low, high = (place.x(at) for at in (begin, end))
    return (
        f'<rect class="shade" x="{low:.1f}" y="{_TOP}" width="{high - low:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"/>'
    )


def _marks(place: _Place, marks: Sequence[Mark]) -> list[str]:
    """A line each, with its number above where there is room for it."""
    parts, last = [], -math.inf
    for number, mark in enumerate(marks, 1):
        x = place.x(mark.x)
        parts.append(f'<line class="happened" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        if x - last >= _APART:
            parts.append(f'<text class="tick middle" x="{x:.1f}" y="{_TOP - 5}">{number}</text>')
            last = x
    return parts


def _bars(place: _Place, line: Line, colour: int) -> list[str]:
    parts = []
    for x, low, high in line.bars:
        at = f"{place.x(x):.1f}"
        parts.append(
            f'<line class="bar c{colour}" x1="{at}" x2="{at}" y1="{place.y(low):.1f}" y2="{place.y(high):.1f}"/>'
        )
    if line.bars or len(line.points) == 1:  # a line of one point cannot be seen
        parts += [
            f'<circle class="dot c{colour}" cx="{place.x(x):.1f}" cy="{place.y(y):.1f}" r="{_DOT}"/>'
            for x, y in line.points
        ]
    return parts


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
    """At most so many: the lowest and the highest of each stretch, so that a peak is never lost."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept = []
    for begun in range(0, len(points), size):
        stretch = points[begun : begun + size]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return [points[0], *(one for one in kept if one not in (points[0], points[-1])), points[-1]]


def _legend(lines: Sequence[Line]) -> str:
    """Outside the picture, so that it lies on no line and wraps where there are many."""
    entries = (
        f'<li><svg class="mark" viewBox="0 0 26 6"><path class="line c{number % _COLOURS}" d="M1 3H25"/></svg>'
        f"{escape(line.name)}</li>"
        for number, line in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _told(marks: Sequence[Mark]) -> str:
    if not marks:
        return ""
    rows = "".join(f"<li>{escape(mark.what)}</li>" for mark in marks)
    return f'<ol class="told">{rows}</ol>'
