"""Named marks between two axes, as a piece of SVG: gain against kept of several methods.

A mark's whiskers are its intervals. Names stand in a column at the right, in the order of the marks' heights and far enough apart to be read, each
joined to its mark by a line, so that marks that lie on each other can still be told apart, without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tempering.report.charts import ticks

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 190, 14, 46
LABEL = 19
"""Least distance of two names."""
STYLE = (
    ".race text{font:12px system-ui,sans-serif;fill:var(--ink,#1d2125)}.race .soft{fill:var(--soft,#5b626a)}.race .grid{stroke:var(--rule,#e2dfd9)}"
    ".race .whisker{stroke:var(--even,#676d74);stroke-width:1.2}.race .lead{stroke:var(--rule,#c9c5bd);fill:none}"
    ".race circle{fill:var(--gain,#0a5fa5)}.race .first circle{fill:var(--loss,#ad4500)}.race .first text{font-weight:700}"
    ".race .small{fill:var(--even,#676d74)}"
)
Ends = tuple[float, float | None, float | None]
"""A value and the bounds of its interval."""


@dataclass(frozen=True)
class Mark:
    """One dot: where it stands, what it is called ("" is a small dot without a name), what is said of it, and whether it stands out."""

    name: str
    x: Ends
    y: Ends
    said: str
    first: bool = False


@dataclass(frozen=True)
class Axis:
    """What an axis is called, how its numbers are written, and where they end."""

    title: str
    write: Callable[[float], str]
    top: float | None = None


def scatter(
    marks: Sequence[Mark],
    x: Axis,
    y: Axis,
    label: str,
    *,
    whiskers: Sequence[str] = ("x", "y"),
    line: Sequence[tuple[float, float]] = (),
    alone: bool = False,
) -> Markup:
    """The drawing as <svg>.

    Args:
        label: what is read out instead of it.
        whiskers: of which axes intervals are drawn.
        line: points joined by a line, in this order.
        alone: with its own style and name space, for a file of its own.
    """
    x_of, x_ticks = _axis([v for mark in marks for v in _given(mark.x)], LEFT, WIDTH - RIGHT, x.top)
    y_of, y_ticks = _axis([v for mark in marks for v in _given(mark.y)], HEIGHT - BOTTOM, TOP, y.top)
    parts = []
    for value in y_ticks:
        at = y_of(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, at, at))
        parts.append(Markup('<text class="soft" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, at + 4, y.write(value)))
    for value in x_ticks:
        at = x_of(value)
        parts.append(Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(at, at, TOP, HEIGHT - BOTTOM))
        parts.append(Markup('<text class="soft" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(at, HEIGHT - BOTTOM + 17, x.write(value)))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{:.0f}" y="{}" text-anchor="middle">{} →</text>').format(middle, HEIGHT - 8, x.title))
    upright = '<text transform="translate(14 {:.0f}) rotate(-90)" text-anchor="middle">{} →</text>'
    parts.append(Markup(upright).format((TOP + HEIGHT - BOTTOM) / 2, y.title))
    if line:
        through = " ".join(f"{x_of(a):.1f},{y_of(b):.1f}" for a, b in line)
        parts.append(Markup('<polyline class="whisker" fill="none" points="{}"/>').format(through))
    for mark in marks:
        if not mark.name:
            dot = '<circle class="small" cx="{:.1f}" cy="{:.1f}" r="2.5"><title>{}</title></circle>'
            parts.append(Markup(dot).format(x_of(mark.x[0]), y_of(mark.y[0]), mark.said))
    ordered = sorted((mark for mark in marks if mark.name), key=lambda mark: y_of(mark.y[0]))
    for mark, height in zip(ordered, _apart([y_of(mark.y[0]) for mark in ordered]), strict=True):
        parts.append(_drawn(mark, height, x_of, y_of, whiskers))
    own = Markup(' xmlns="http://www.w3.org/2000/svg"') if alone else Markup("")
    style = Markup("<style>{}</style><rect width='100%' height='100%' fill='#fbfaf8'/>").format(Markup(STYLE)) if alone else Markup("")
    return Markup('<svg class="race"{} viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        own, WIDTH, HEIGHT, label, style, Markup("").join(parts)
    )


def _given(ends: Ends) -> list[float]:
    return [v for v in ends if v is not None]


def _axis(values: Sequence[float], start: float, end: float, top: float | None) -> tuple[Callable[[float], float], list[float]]:
    low, high = min(values), max(values)
    room = 0.06 * ((high - low) or 0.05)
    low, high = low - room, high + room if top is None else min(top + 0.3 * room, high + room)
    return (lambda v: start + (end - start) * (v - low) / (high - low)), ticks(low, high)


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights in ascending order, moved as little as a pass down and a pass up need to keep `LABEL` between neighbours inside the drawing."""
    found = sorted(heights)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + LABEL)
    last = float(HEIGHT - BOTTOM)
    for i in range(len(found) - 1, -1, -1):
        last = found[i] = min(found[i], last)
        last -= LABEL
    return found


def _drawn(mark: Mark, label: float, x_of: Callable[[float], float], y_of: Callable[[float], float], whiskers: Sequence[str]) -> Markup:
    x, y = x_of(mark.x[0]), y_of(mark.y[0])
    lines = []
    for name, (_, low, high), axis in (("x", mark.x, x_of), ("y", mark.y, y_of)):
        if name in whiskers and low is not None and high is not None:
            a, b = sorted(min(max(axis(v), 0), WIDTH if name == "x" else HEIGHT) for v in (low, high))
            box = (x, x, a, b) if name == "y" else (a, b, y, y)
            lines.append(Markup('<line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(*box))
    edge = WIDTH - RIGHT + 8
    lead = Markup('<path class="lead" d="M{:.1f} {:.1f}L{} {:.1f}"/>').format(x, y, edge, label)
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(x, y, mark.said)
    text = Markup('<text x="{}" y="{:.1f}">{}</text>').format(edge + 4, label + 4, mark.name)
    return Markup('<g class="{}">{}{}{}{}</g>').format("first" if mark.first else "other", lead, Markup("").join(lines), dot, text)
