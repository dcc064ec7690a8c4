"""The board as one HTML page: every row in a table that sorts and filters, replications as effect plots, links to the code.

It looks like a run's report (the same style sheet and figures) and is as closed: it loads nothing, every text is escaped, and the only script is this
package's own, which the page's policy names by its hash. Without the script the whole table is there, unfiltered. The same rows give the same bytes.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tempering import index
from tempering.board.evidence import Replication
from tempering.board.states import STATES, Row
from tempering.index import Entry
from tempering.report import charts
from tempering.report.closed import page

TEMPLATES = Path(__file__).parent / "templates"
TONES = {"replicated": "gain", "not replicated": "loss"}
"""Verdict -> class that colours it, in the words of the report's style sheet; others are even."""


def beside(page: Path) -> Callable[[Entry], str]:
    """Links to the code for a page at this place: relative inside the checkout; none elsewhere, where a path would only be this machine's."""
    root, here = index.PACKAGE.parent.resolve(), page.absolute().parent.resolve()
    inside = here.is_relative_to(root)
    return lambda entry: Path(os.path.relpath(Path(entry.path).resolve(), here)).as_posix() if inside else ""


def render(rows: Sequence[Row], link: Callable[[Entry], str]) -> str:
    """The page as a string.

    Args:
        rows: what to show, in this order.
        link: the address of a method's or recipe's code or page; "" where there is none.
    """
    counts = Counter(row.word for row in rows)
    bounds = _bounds(rows)
    context = {
        "style": (TEMPLATES / "board.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "board.js").read_text(encoding="utf-8"),
        "total": len(rows),
        "tiles": [(word, counts[word]) for word in STATES if counts[word]],
        "stale": sum(bool(row.stale) for row in rows),
        "families": sorted({row.paper.family for row in rows}),
        "kinds": sorted({row.paper.kind for row in rows}),
        "states": [word for word in STATES if counts[word]],
        "rows": [_row(row, link, bounds) for row in rows],
    }
    return page("tempering.board", "board.html.jinja", **context)


def _row(row: Row, link: Callable[[Entry], str], bounds: dict[str, float]) -> dict[str, Any]:
    effects = [one.effect for one in row.replications if one.effect is not None]
    return {
        "row": row,
        "paper": row.paper,
        "tone": TONES.get(row.word, "works" if row.state == "works" else row.state.replace(" ", "-")),
        "order": STATES.index(row.word),
        "effect": max(effects, key=abs) if effects else "",
        "files": [(f"{entry.kind}/{entry.name}", link(entry), entry.summary) for entry in row.entries],
        "arxiv": [(paper, f"https://arxiv.org/abs/{paper}") for paper in row.entries[0].arxiv] if len(row.entries) == 1 else [],
        "plots": [_plot(one, bounds.get(one.metric, 1.0), one.name in row.stale) for one in row.replications],
    }  # fmt: skip


def _bounds(rows: Sequence[Row]) -> dict[str, float]:
    """The ends of the scale, one for each metric, so that effects in one unit compare by eye."""
    ends: dict[str, list[float]] = {}
    for one in (one for row in rows for one in row.replications):
        ends.setdefault(one.metric, []).extend(abs(end) for end in (one.effect, *(one.interval or ())) if end is not None)
    return {metric: _round_up(1.05 * max(values)) for metric, values in ends.items() if values}


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next((factor * power for factor in (1, 2, 5, 10) if factor * power >= value), 10 * power)


def _plot(one: Replication, bound: float, old: bool) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    said = "" if one.effect is None else f"{one.effect:+.3g}" + (f" [{low:+.3g}, {high:+.3g}]" if one.interval else "")
    label = f"{one.metric or 'effect'} {said}, {one.verdict}"
    drawn = charts.interval(one.effect, low, high, bound, TONES.get(one.verdict, "even"), label) if one.effect is not None else ""
    return {"one": one, "svg": drawn, "said": said, "scale": (f"\u2212{bound:g}", f"+{bound:g}"), "tone": TONES.get(one.verdict, "even"), "old": old}
