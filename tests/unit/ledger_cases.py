"""Small scores to compare, for the tests of the ledger, its gates, its view and its lost items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempering.types import ItemScore, ProbeScores, Scores


def binary(name: str, before: str, after: str, **fields: Any) -> tuple[ProbeScores, ProbeScores]:
    """A probe before and after from strings of 0 and 1, one character an item: `binary("a", "1100", "1010")`. Ids are NAME0, NAME1, ..."""
    return _probe(name, list(map(int, before)), fields), _probe(name, list(map(int, after)), fields)


def counted(name: str, kept: int, lost: int, gained: int, never: int, **fields: Any) -> tuple[ProbeScores, ProbeScores]:
    return binary(name, "1" * (kept + lost) + "0" * (gained + never), "1" * kept + "0" * lost + "1" * gained + "0" * never, **fields)


def continuous(name: str, before: list[float], after: list[float], **fields: Any) -> tuple[ProbeScores, ProbeScores]:
    fields = {"metric": "nll per token", "kind": "continuous", "higher_is_better": False} | fields
    return _probe(name, before, fields), _probe(name, after, fields)


def both(*probes: tuple[ProbeScores, ProbeScores]) -> tuple[Scores, Scores]:
    return Scores("base", tuple(a for a, _ in probes)), Scores("tuned", tuple(b for _, b in probes))


def _probe(name: str, scores: list[Any], fields: Mapping[str, Any]) -> ProbeScores:
    words = ("wrong", "right")
    items = tuple(
        ItemScore(f"{name}{i}", float(score), f"question {i} of {name}?", f"said {words[int(score >= 0.5)]}", f"answer {i}")
        for i, score in enumerate(scores)
    )
    return ProbeScores(**{"probe": name, "metric": "accuracy", "kind": "binary", "higher_is_better": True, "items": items} | fields)
