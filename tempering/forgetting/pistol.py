"""PISTOL (Qiu et al. 2024, arXiv:2406.16810): data that is a graph. Nodes are companies or people, an edge is a contract, a record a question about
one; what is to go is an edge, and how much else goes depends on how connected its ends are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tempering.errors import UserError
from tempering.items import mean
from tempering.types import Record, Scores

TAG = "edge"
"""Field of a record that names its edge: two nodes with "_" between, "A_B"."""


def ends(edge: str) -> tuple[str, str]:
    """The two nodes of an edge.

    Raises:
        UserError: the name is not of the form "A_B".
    """
    first, mark, second = edge.partition("_")
    if not (first and mark and second):
        raise UserError(f"edge {edge!r}: two nodes with '_' between are wanted, such as A_B")
    return first, second


def degrees(records: Iterable[Record]) -> dict[str, int]:
    """How many edges each node has."""
    edges = {str(record.tags[TAG]) for record in records if TAG in record.tags}
    return dict(Counter(node for edge in sorted(edges) for node in ends(edge)))


def split(records: Sequence[Record], edges: Iterable[str]) -> tuple[list[Record], list[Record], list[Record]]:
    """(records of these edges, of other edges that share a node with them, all others): disjoint, and together all records.

    Raises:
        UserError: an edge that no record is about, or records without the field.
    """
    going = set(edges)
    have = {str(record.tags.get(TAG, "")) for record in records}
    if "" in have:
        raise UserError(f"{next(r.source for r in records if TAG not in r.tags)}: field '{TAG}' is missing, it names the record's edge, such as A_B")
    if missing := sorted(going - have):
        raise UserError(f"edge {missing[0]!r}: no record is about it; there are {', '.join(sorted(have)[:8])}")
    nodes = {node for edge in going for node in ends(edge)}
    parts: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    for record in records:
        edge = str(record.tags[TAG])
        parts[0 if edge in going else 1 if nodes & set(ends(edge)) else 2].append(record)
    return parts


def deviation(forget: float, retain: float) -> float:
    """100 * sqrt(forget^2 + (1 - retain)^2): 0 where all that should go went and nothing else, 100 for a model that did nothing."""
    return 100 * math.hypot(forget, 1 - retain)


def deviation_score(scores: Scores, forget: str = "forget_rouge", retain: str = "retain_rouge") -> float | None:
    """The deviation of a run's ROUGE probes; None where one was not measured. The paper takes ROUGE-1 (`Rouge(measure="rouge_1")`)."""
    found = {p.probe: mean([item.score for item in p.items]) for p in scores.probes if p.probe in (forget, retain)}
    return deviation(found[forget], found[retain]) if len(found) == 2 else None
