"""Gain against what was kept, one mark a method, as a piece of SVG.

A mark's whiskers are its intervals. Names stand in a column at the right, in the order of the marks' heights and far enough apart to be read, each
joined to its mark by a line, so that marks that lie on each other can still be told apart, without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from tempering.race.result import Lane, Race
from tempering.report.charts import ticks

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 190, 14, 46
LABEL = 19
"""Least distance of two names."""
STYLE = (
    ".race text{font:12px system-ui,sans-serif;fill:var(--ink,#1d2125)}.race .soft{fill:var(--soft,#5b626a)}.race .grid{stroke:var(--rule,#e2dfd9)}"
    ".race .whisker{stroke:var(--even,#676d74);stroke-width:1.2}.race .lead{stroke:var(--rule,#c9c5bd);fill:none}"
    ".race circle{fill:var(--gain,#0a5fa5)}.race .first circle{fill:var(--loss,#ad4500)}.race .first text{font-weight:700}"
)


def picture(race: Race, *, alone: bool = False) -> Markup:
    """The drawing as <svg>.

    Args:
        alone: with its own style and name space, for a file of its own.
    """
    lanes = [lane for lane in race.lanes if lane.keep is not None] or list(race.lanes)
    kept = [_ends(lane.keep) if lane.keep else [1.0] for lane in lanes]
    x_of, x_ticks = _axis([v for ends in kept for v in ends], LEFT, WIDTH - RIGHT, 1.0 if lanes[0].keep else None)
    y_of, y_ticks = _axis([v for lane in lanes for v in _ends(lane.gain)], HEIGHT - BOTTOM, TOP, None)
    share = race.gain_on != "held_loss"
    parts = []
    for value in y_ticks:
        y = y_of(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(Markup('<text class="soft" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, y + 4, _said(value, share)))
    for value in x_ticks:
        x = x_of(value)
        parts.append(Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(x, x, TOP, HEIGHT - BOTTOM))
        parts.append(Markup('<text class="soft" x="{:.1f}" y="{}" text-anchor="middle">{:.4g}%</text>').format(x, HEIGHT - BOTTOM + 17, 100 * value))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{:.0f}" y="{}" text-anchor="middle">kept of what it knew →</text>').format(middle, HEIGHT - 8))
    parts.append(
        Markup('<text transform="translate(14 {:.0f}) rotate(-90)" text-anchor="middle">gain on {}{} →</text>').format(
            (TOP + HEIGHT - BOTTOM) / 2, race.gain_on, ", points" if share else ""
        )
    )
    at = {lane.method: (x_of(lane.keep.point if lane.keep else 1.0), y_of(lane.gain.point)) for lane in lanes}
    for lane, y in zip(sorted(lanes, key=lambda lane: at[lane.method][1]), _apart([at[lane.method][1] for lane in lanes]), strict=True):
        parts.append(_mark(lane, at[lane.method], y, x_of, y_of, lane.method == race.lanes[0].method))
    said = "; ".join(
        f"{lane.method}: gain {_said(lane.gain.point, share)}" + (f", kept {lane.keep.point:.1%}" if lane.keep else "") for lane in lanes
    )
    own = Markup(' xmlns="http://www.w3.org/2000/svg"') if alone else Markup("")
    style = Markup("<style>{}</style><rect width='100%' height='100%' fill='#fbfaf8'/>").format(Markup(STYLE)) if alone else Markup("")
    return Markup('<svg class="race"{} viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        own, WIDTH, HEIGHT, f"Gain against kept. {said}.", style, Markup("").join(parts)
    )


def _ends(interval: object) -> list[float]:
    return [v for name in ("point", "low", "high") if (v := getattr(interval, name)) is not None]


def _axis(values: Sequence[float], start: float, end: float, top: float | None) -> tuple[Callable[[float], float], list[float]]:
    low, high = min(values), max(values)
    room = 0.06 * ((high - low) or 0.05)
    low, high = low - room, high + room if top is None else min(top + 0.3 * room, high + room)
    return (lambda v: start + (end - start) * (v - low) / (high - low)), ticks(low, high)


def _said(value: float, share: bool) -> str:
    return (f"{100 * value:.4g}" if share else f"{value:.4g}").replace("-", "\u2212")


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


def _mark(lane: Lane, at: tuple[float, float], label: float, x_of: Callable[[float], float], y_of: Callable[[float], float], first: bool) -> Markup:
    x, y = at
    lines = []
    for interval, axis, upright in ((lane.keep, x_of, False), (lane.gain, y_of, True)):
        if interval is not None and interval.low is not None and interval.high is not None:
            a, b = sorted((min(max(axis(v), 0), WIDTH if not upright else HEIGHT)) for v in (interval.low, interval.high))
            box = (x, x, a, b) if upright else (a, b, y, y)
            lines.append(Markup('<line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(*box))
    edge = WIDTH - RIGHT + 8
    lead = Markup('<path class="lead" d="M{:.1f} {:.1f}L{} {:.1f}"/>').format(x, y, edge, label)
    said = f"{lane.method}: gain {lane.gain.point:+.3f}" + (f", kept {lane.keep.point:.1%}" if lane.keep else "")
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(x, y, said)
    text = Markup('<text x="{}" y="{:.1f}">{}</text>').format(edge + 4, label + 4, lane.method)
    return Markup('<g class="{}">{}{}{}{}</g>').format("first" if first else "other", lead, Markup("").join(lines), dot, text)
