"""Charts as small pieces of SVG: curves, intervals and shares, drawn by hand.

No plotting library: what one draws has its colours baked in, while this page follows the reader's light or dark setting through CSS variables; those
that can be themed load a script, which this page forbids; and their files are many times the size. Every figure here has a text alternative, takes
its colours from classes in style.css, and never tells two things apart by colour alone (lines differ by dash, directions by side).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from markupsafe import Markup

from tempering.report.curves import Curve, say

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24
SPANS = {1: WIDTH, 2: 754, 3: 1148}
"""Widths of charts over one, two and three columns of the page, gaps included, so that text and lines come out at one size."""
MAX_POINTS = 400
"""Points drawn of one line at most: more than the chart has pixels."""


@dataclass(frozen=True)
class Line:
    """One curve of a chart: `key` is its word in the legend, `dots` marks every point (for the few points of an evaluation)."""

    key: str
    curve: Curve
    dots: bool = False


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; with 2 and 5 between them where there would be fewer than three."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [10.0**e for e in exponents if low <= 10.0**e * (1 + 1e-9) and 10.0**e <= high * (1 + 1e-9)]
    if len(inside) < 3:
        inside = [f * 10.0**e for e in exponents for f in (1, 2, 5) if low <= f * 10.0**e * (1 + 1e-9) and f * 10.0**e <= high * (1 + 1e-9)]
    return inside[:: math.ceil(len(inside) / 6)]


def thin(curve: Curve, limit: int = MAX_POINTS) -> Curve:
    """At most about `limit` points with the same picture: the lowest and highest of every bucket stay, and one that is no number."""
    if len(curve) <= limit:
        return curve
    size = math.ceil(len(curve) / (limit // 2))
    kept: list[int] = []
    for start in range(0, len(curve), size):
        bucket = range(start, min(start + size, len(curve)))
        finite = [i for i in bucket if math.isfinite(curve.values[i])]
        broken = [i for i in bucket if not math.isfinite(curve.values[i])][:1]
        ends = [min(finite, key=curve.values.__getitem__), max(finite, key=curve.values.__getitem__)] if finite else []
        kept += sorted({*ends, *broken})
    return Curve(curve.name, tuple(curve.steps[i] for i in kept), tuple(curve.values[i] for i in kept))


def smooth(curve: Curve) -> Curve:
    """Running medians over about a fifteenth of the curve, gaps left as gaps: the level behind the noise."""
    half = max(1, len(curve) // 30)
    values = []
    for i, value in enumerate(curve.values):
        near = [v for v in curve.values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        values.append(median(near) if math.isfinite(value) else math.nan)
    return Curve(curve.name, curve.steps, tuple(values))


def line_chart(title: str, lines: Sequence[Line], *, low_at: int | None = None, span: int = 1) -> Markup:
    """A chart of curves over the steps as <figure>, with legend and text alternative; "" where there is no number to draw.

    Args:
        title: what the values are, with the unit.
        lines: the curves; the first is drawn strongest.
        low_at: a step to mark on the last line (the best evaluation).
        span: columns of the page's grid that the chart takes where there are three; it is then drawn once more, in that shape.
    """
    finite = [line.curve.finite for line in lines]
    values = [value for curve in finite for value in curve.values]
    if not values:
        return Markup("")
    steps = [step for line in lines for step in line.curve.steps]
    said = "; ".join(_said(line) for line in lines)
    where = f"step {min(steps)} to {max(steps)}" if len(set(steps)) > 1 else f"step {steps[0]}"
    drawings = []
    log = _logarithmic(min(values), max(values))
    for width, style in ((WIDTH, "narrow"), (SPANS[span], "wide")) if span > 1 else ((WIDTH, ""),):
        scale = _Scale(min(steps), max(steps), min(values), max(values), width)
        drawings.append(
            Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
                style, width, HEIGHT, f"{title}, {where}. {said}.", _drawing(scale, lines, low_at)
            )
        )
    single = len(lines) == 1
    keys = Markup("").join(
        Markup('<span class="key">{}{} <b>{}</b></span>').format(
            Markup("") if single else Markup('<i class="k{}"></i>').format(i),
            "last" if single else line.key,
            say(curve.values[-1] if len(curve) else None),
        )
        for i, (line, curve) in enumerate(zip(lines, finite, strict=True))
    )
    note = Markup(' <span class="unit">log scale</span>') if log else Markup("")
    return Markup(
        '<figure class="chart span{}"><figcaption><span class="name">{}{}</span><span class="keys">{}</span></figcaption>{}</figure>'
    ).format(span, title, note, keys, Markup("").join(drawings))


def _drawing(scale: _Scale, lines: Sequence[Line], low_at: int | None) -> Markup:
    parts = [_grid(scale)]
    for i, line in enumerate(lines):
        noisy = not line.dots and _noisy(line.curve)
        if noisy:
            parts.append(_path(scale, thin(line.curve), f"line l{i} raw"))
        parts.append(_path(scale, thin(smooth(line.curve) if noisy else line.curve), f"line l{i}"))
        if line.dots or len(line.curve) == 1:
            parts += [
                _dot(scale, step, value, i, step == low_at) for step, value in zip(line.curve.finite.steps, line.curve.finite.values, strict=True)
            ]
        parts.append(_gaps(scale, line.curve))
    return Markup("").join(parts)


def _noisy(curve: Curve) -> bool:
    """Whether the level is hard to see behind the noise: the way up and down is many times the height climbed (a warm-up and decay is twice)."""
    values = curve.finite.values
    return len(values) > 30 and sum(abs(b - a) for a, b in pairwise(values)) > 4 * (max(values) - min(values))


def interval(diff: float, low: float | None, high: float | None, bound: float, tone: str, label: str) -> Markup:
    """A difference as a bar from zero with its interval as a whisker; zero in the middle, better on the right. Stretches with its cell.

    Args:
        diff, low, high: the difference and its interval, signed so that positive is better; without a bound the whisker ends at the difference.
        bound: the value at both ends of the scale.
        tone: class that colours it: gain, loss or even.
        label: text alternative.
    """

    def x(value: float) -> str:
        return f"{50 + 48 * max(-1.0, min(1.0, value / bound if bound else 0.0)):.2f}%"

    left, right = sorted((0.0, diff))
    bounds = [end for end in (low, high) if end is not None]
    width = f"{48 * min(1.0, (right - left) / bound if bound else 0.0):.2f}%"
    ends = Markup("").join(Markup('<line x1="{0}" x2="{0}" y1="11" y2="21"/>').format(x(end)) for end in bounds)
    return Markup(
        '<svg class="interval {tone}" width="100%" height="32" role="img" aria-label="{label}"><line class="zero" x1="50%" x2="50%" y1="0" y2="32"/>'
        '<rect x="{left}" y="9" width="{width}" height="14"/><g class="whisker"><line x1="{low}" x2="{high}" y1="16" y2="16"/>{ends}</g>'
        '<circle cx="{diff}" cy="16" r="4"/></svg>'
    ).format(tone=tone, label=label, left=x(left), width=width, low=x(min([diff, *bounds])), high=x(max([diff, *bounds])), ends=ends, diff=x(diff))


def shares(counts: Sequence[tuple[str, int]], label: str) -> Markup:
    """Counts as one bar of the whole width: (class, count) in order, with a hairline of space between the pieces."""
    total = sum(count for _, count in counts)
    at, parts = 0.0, []
    for name, count in counts:
        share = 100 * count / total if total else 0.0
        if count:
            parts.append(Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="10"/>').format(name, at, share))
        at += share
    return Markup('<svg class="shares" width="100%" height="10" role="img" aria-label="{}">{}</svg>').format(label, Markup("").join(parts))


def levels(now: float, before: float, low: float | None, high: float | None, never: float | None, label: str) -> Markup:
    """A share now as a thick bar over a thin one of the share before, with the interval of now as a whisker and a mark at the share of a model that
    never saw the data. Stretches with its cell; all numbers in [0, 1]."""

    def x(value: float) -> str:
        return f"{100 * min(1.0, max(0.0, value)):.2f}%"

    parts = [
        Markup('<rect class="all" x="0" y="4" width="100%" height="20"/>'),
        Markup('<rect class="then" x="0" y="4" width="{}" height="5"/>').format(x(before)),
    ]
    parts.append(Markup('<rect class="now" x="0" y="10" width="{}" height="14"/>').format(x(now)))
    if low is not None and high is not None:
        ends = Markup("").join(Markup('<line x1="{0}" x2="{0}" y1="13" y2="21"/>').format(x(end)) for end in (low, high))
        parts.append(Markup('<g class="whisker"><line x1="{}" x2="{}" y1="17" y2="17"/>{}</g>').format(x(low), x(high), ends))
    if never is not None:
        parts.append(Markup('<line class="never" x1="{0}" x2="{0}" y1="0" y2="28"/>').format(x(never)))
    return Markup('<svg class="levels" width="100%" height="28" role="img" aria-label="{}">{}</svg>').format(label, Markup("").join(parts))


# ----------------------------------------------------------------------------------------------------------------------------- inside a line chart


def _logarithmic(low: float, high: float) -> bool:
    """Where positive values span more than two powers of ten: on a plain scale most of the line would lie on the axis."""
    return low > 0 and high / low > 100


class _Scale:
    """Data to pixels."""

    def __init__(self, first: int, last: int, low: float, high: float, width: int = WIDTH) -> None:
        self.first, self.last, self.width = first, last, width
        self.log = _logarithmic(low, high)
        if self.log:
            self.low, self.high = low / 1.2, high * 1.2
            self.ticks = log_ticks(self.low, self.high)
            return
        span = (high - low) or max(abs(high), 1.0) * 0.2
        if low >= 0 and low < 0.4 * high:
            low = 0.0  # Near zero already: the axis starts there, so that heights compare.
            self.low, self.high = low, high + 0.06 * span
        else:
            self.low, self.high = low - 0.08 * span, high + 0.08 * span
        self.ticks = ticks(self.low, self.high)

    def x(self, step: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * ((step - self.first) / (self.last - self.first) if self.last > self.first else 0.5)

    def y(self, value: float) -> float:
        low, high, at = (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (at - low) / (high - low))


def _grid(scale: _Scale) -> Markup:
    parts = []
    for value in scale.ticks:
        y = scale.y(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, scale.width - RIGHT, y, y))
        parts.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, y + 3.5, _tick(value, scale)))
    for value in [v for v in ticks(scale.first, scale.last, 4 * scale.width // WIDTH) if v == int(v)]:
        anchor = "end" if scale.x(value) > scale.width - RIGHT - 14 else "middle"
        at = min(scale.x(value), scale.width - RIGHT)
        parts.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(at, HEIGHT - 7, anchor, f"{int(value):,}"))
    return Markup("").join(parts)


def _tick(value: float, scale: _Scale) -> str:
    """As many decimals as the distance of the ticks has, alike on all of them; on a log scale each as short as it can be."""
    top = max(abs(v) for v in scale.ticks)
    if scale.log or (top and (top < 1e-3 or top >= 1e6)) or len(scale.ticks) < 2:
        return say(value, 1 if scale.log else 2)
    gap = min(abs(b - a) for a, b in pairwise(scale.ticks))
    decimals = next((d for d in range(6) if abs(round(gap, d) - gap) < gap * 1e-6), 6)
    return f"{value:,.{decimals}f}".replace("-", "\u2212")


def _path(scale: _Scale, curve: Curve, style: str) -> Markup:
    pieces, pen = [], "M"
    for step, value in zip(curve.steps, curve.values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        pieces.append(f"{pen}{scale.x(step):.1f} {scale.y(value):.1f}")
        pen = "L"
    return Markup('<path class="{}" d="{}"/>').format(style, "".join(pieces))


def _dot(scale: _Scale, step: int, value: float, i: int, best: bool) -> Markup:
    said = f"step {step}: {say(value)}" + (" (best)" if best else "")
    return Markup('<circle class="dot l{}{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        i, " best" if best else "", scale.x(step), scale.y(value), 4.5 if best else 2.5, said
    )


def _gaps(scale: _Scale, curve: Curve) -> Markup:
    """A cross on the axis at every step whose value is not a number (thinned to what can be told apart)."""
    broken = sorted({round(scale.x(step) / 4) * 4 for step, value in zip(curve.steps, curve.values, strict=True) if not math.isfinite(value)})
    foot = HEIGHT - BOTTOM
    return Markup("").join(
        Markup('<path class="gap" d="M{} {}l6 6m0 -6l-6 6"><title>not a number</title></path>').format(x - 3, foot - 3) for x in broken
    )


def _said(line: Line) -> str:
    curve = line.curve.finite
    if not len(curve):
        return f"{line.key}: no number"
    missing = len(line.curve) - len(curve)
    said = (
        f"{line.key}: first {say(curve.values[0])}, last {say(curve.values[-1])}, lowest {say(min(curve.values))}, highest {say(max(curve.values))}"
    )
    return said + (f", {missing} not a number" if missing else "")
