"""The way between models: one setting of a merge taken through several values, each result measured, and all of them drawn against what they keep.

A mark stands at the shares of the first and of the second model's right answers that a result keeps. Rewarded soups (Ramé et al. 2023, arXiv
2306.04488) ask for this picture of weight averages: the front between two models that were trained for different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tempering.ledger import compare
from tempering.report.scatter import Axis, Ends, Mark, scatter
from tempering.stats import share_interval
from tempering.types import Scores


@dataclass(frozen=True)
class Point:
    """One model, and what it keeps of the two at the ends."""

    name: str
    kept: tuple[Ends, Ends]
    """Share of each end's right answers that are still right, with its interval."""
    right: float
    """Share of all items that are right."""


def points(ends: tuple[Scores, Scores], between: Sequence[Scores]) -> tuple[Point, ...]:
    """The ends themselves and what lies between, in order; of binary probes.

    Raises:
        UserError: the models were not measured on the same items.
    """
    return tuple(_point(ends, one) for one in (ends[0], *between, ends[1]))


def _point(ends: tuple[Scores, Scores], model: Scores) -> Point:
    kept = []
    for end in ends:
        probes = [probe for probe in compare(end, model).probes if probe.kind == "binary"]
        right, lost = (sum(len(getattr(probe, name)) for probe in probes) for name in ("kept_ids", "lost_ids"))
        share = share_interval(right, right + lost, level=0.95) if right + lost else None
        kept.append((share.point, share.low, share.high) if share else (0.0, None, None))
    items = [item.score for probe in model.probes if probe.kind == "binary" for item in probe.items]
    return Point(model.model, (kept[0], kept[1]), sum(items) / max(1, len(items)))


def picture(found: Sequence[Point]) -> Markup:
    """The points as a drawing of its own; the ends stand out."""
    first, last = found[0].name, found[-1].name
    marks = [Mark(point.name, *point.kept, said(point, first, last), point.name in (first, last)) for point in found]
    x, y = (Axis(f"kept of {name}'s right answers", lambda v: f"{100 * v:.4g}%", 1.0) for name in (first, last))
    return scatter(marks, x, y, "What merges keep of both models. " + "; ".join(mark.said for mark in marks), alone=True)


def said(point: Point, first: str, last: str) -> str:
    """ "0.25: keeps 97.0% of a and 81.2% of b; 63.1% of all items are right"."""
    kept = " and ".join(f"{100 * share[0]:.1f}% of {name}" for share, name in zip(point.kept, (first, last), strict=True))
    return f"{point.name}: keeps {kept}; {100 * point.right:.1f}% of all items are right"
