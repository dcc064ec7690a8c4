"""What stood next to the forgotten: retain items by how close they are to the nearest forget question, and what each band lost.

Damage of unlearning is rarely even: what shares words, relations or people with the target goes first. Closeness is the share of an item's words that
the nearest forget question has too (Jaccard index of word sets, template words included on both sides); the retain items are cut into thirds by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tempering.stats import Interval, mean_interval
from tempering.types import Scores

BANDS = ("near", "middle", "far")


@dataclass(frozen=True)
class Band:
    """One third of a retain probe's items."""

    probe: str
    band: str
    n: int
    closeness: tuple[float, float]
    """The least and the largest in the band."""
    before: float
    after: float
    oracle: float | None
    change: Interval
    """Mean of after - before, in the probe's own direction."""

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def closeness(text: str, targets: Sequence[frozenset[str]]) -> float:
    """Jaccard index of the words of a text with those of the nearest target."""
    mine = words(text)
    return max((len(mine & other) / len(mine | other) for other in targets if mine | other), default=0.0)


def words(text: str) -> frozenset[str]:
    """The words of a text, without case and punctuation."""
    return frozenset("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def bands(before: Scores, after: Scores, oracle: Scores | None, targets: Sequence[str], *, prefix: str = "retain") -> tuple[Band, ...]:
    """Retain probes (those whose names begin with `prefix`) in thirds, nearest first.

    Args:
        targets: forget questions, as the model sees them or as people write them.
    """
    bags = [words(text) for text in targets]
    then, never = ({p.probe: p for p in scores.probes} if scores else {} for scores in (before, oracle))
    found: list[Band] = []
    for probe in after.probes:
        if not probe.probe.startswith(prefix) or probe.probe not in then or len(probe.items) < len(BANDS):
            continue
        near = [closeness(item.prompt, bags) for item in probe.items]
        order = sorted(range(len(near)), key=lambda i: (-near[i], i))
        for b, band in enumerate(BANDS):
            mine = order[b * len(order) // len(BANDS) : (b + 1) * len(order) // len(BANDS)]
            old, new = ([scores.items[i].score for i in mine] for scores in (then[probe.probe], probe))
            change = mean_interval([y - x for x, y in zip(old, new, strict=True)])
            theirs = [never[probe.probe].items[i].score for i in mine] if probe.probe in never else []
            at = (min(near[i] for i in mine), max(near[i] for i in mine))
            means = (sum(old) / len(mine), sum(new) / len(mine), sum(theirs) / len(theirs) if theirs else None)
            found.append(Band(probe.probe, band, len(mine), at, *means, change))
    return tuple(found)
