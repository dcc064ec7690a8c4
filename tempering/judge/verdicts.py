"""Questions to a judge, what it may say, and a duel of two sets of answers in which no place is an advantage.

Judges prefer a place (Zheng et al. 2023, arXiv 2306.05685, section 3.3). So every item is asked in both orders, and the item's score is the mean of
the two. The seed says which order is asked first, and which one is asked at all where only one is paid for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tempering.errors import UserError
from tempering.types import Message

Verdict = Literal["first", "second", "tie"]


@dataclass(frozen=True)
class Question:
    """Two answers to one prompt, in the order in which they are shown."""

    prompt: tuple[Message, ...]
    first: str
    second: str


class Judge(Protocol):
    """Says of every question which answer is better; None where what it said cannot be read."""

    def __call__(self, questions: Sequence[Question]) -> list[Verdict | None]: ...


@dataclass(frozen=True)
class Item:
    """One prompt of a duel. Verdicts are "a", "b", "tie", or None (unreadable), by which answer stood first; an order not asked is absent."""

    a: str
    b: str
    verdicts: Mapping[Literal["ab", "ba"], Literal["a", "b", "tie"] | None]

    @property
    def score(self) -> float | None:
        """A's share of the item: the mean over the orders of 1, 0, or a half for a tie; None where any verdict could not be read."""
        values = [None if v is None else {"a": 1.0, "b": 0.0, "tie": 0.5}[v] for v in self.verdicts.values()]
        return None if any(v is None for v in values) else sum(v for v in values if v is not None) / len(values)


@dataclass(frozen=True)
class Duel:
    """All items of two sets of answers before one judge."""

    items: tuple[Item, ...]

    @property
    def unreadable(self) -> int:
        """Verdicts that could not be read."""
        return sum(v is None for item in self.items for v in item.verdicts.values())

    @property
    def asked(self) -> int:
        return sum(len(item.verdicts) for item in self.items)

    @property
    def consistent(self) -> float | None:
        """Share of the items asked in both orders, all readable, on which both orders gave one verdict; None where there is none."""
        both = [item for item in self.items if len(item.verdicts) == 2 and item.score is not None]
        return sum(len(set(item.verdicts.values())) == 1 for item in both) / len(both) if both else None

    @property
    def first_place(self) -> float | None:
        """Share of the readable verdicts other than ties that went to the answer shown first: a half for a judge without a favourite place."""
        told = [v == order[0] for item in self.items for order, v in item.verdicts.items() if v in ("a", "b")]
        return sum(told) / len(told) if told else None


def duel(
    prompts: Sequence[tuple[Message, ...]], answers_a: Sequence[str], answers_b: Sequence[str], judge: Judge, *, seed: int = 0, swap: bool = True
) -> Duel:
    """Put every item before the judge.

    Args:
        prompts, answers_a, answers_b: [N] each.
        seed: of the order that comes first in each item.
        swap: ask both orders; otherwise only the first, at half the price and with the judge's favourite place in the result.

    Raises:
        UserError: no items, lists of different length, or a judge that does not give one verdict for each question.
    """
    if not prompts or not len(prompts) == len(answers_a) == len(answers_b):
        raise UserError(f"a duel needs one answer of each side for every prompt, got {len(prompts)} prompts, {len(answers_a)} and {len(answers_b)}")
    draw = random.Random(seed)
    # Two orders of one item stand in two passes, so that neither leans on the other in a judge's cache or batch.
    starts = [draw.random() < 0.5 for _ in prompts]
    passes = [starts, [not start for start in starts]] if swap else [starts]
    questions = [
        Question(p, a, b) if straight else Question(p, b, a)
        for orders in passes
        for straight, p, a, b in zip(orders, prompts, answers_a, answers_b, strict=True)
    ]
    said = judge(questions)
    if len(said) != len(questions):
        raise UserError(f"the judge gave {len(said)} verdicts for {len(questions)} questions; it must give one for each, None where there is none")
    found: list[dict[Literal["ab", "ba"], Literal["a", "b", "tie"] | None]] = [{} for _ in prompts]
    for at, verdict in enumerate(said):
        i, straight = at % len(prompts), passes[at // len(prompts)][at % len(prompts)]
        found[i]["ab" if straight else "ba"] = _side(verdict, straight)
    return Duel(tuple(Item(a, b, verdicts) for a, b, verdicts in zip(answers_a, answers_b, found, strict=True)))


def _side(verdict: Verdict | None, straight: bool) -> Literal["a", "b", "tie"] | None:
    if verdict is None or verdict == "tie":
        return verdict
    if verdict not in ("first", "second"):
        raise UserError(f"a judge says first, second, tie or None, not {verdict!r}")
    return "a" if (verdict == "first") == straight else "b"
