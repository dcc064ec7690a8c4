"""Mistake tuning: learn right and wrong rationales, each under its own name.

Tong et al. 2024, arXiv 2403.20046. The loss is CE([CORRECT RATIONALE], x -> good) + CE([INCORRECT RATIONALE], x -> bad); at use the first prefix is
given. As many right as wrong rationales are made of a question that has both; one without wrong answers gives its right one. Wrong rationales are
the record's answers that are labelled wrong or beaten (the paper's CoTErrorSet). Self-rethinking, a way of prompting, is not part of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, asking, best, made, wrong
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S183",)


class MistakeTuning(Maker):
    """Rationales after a prefix that says whether they are right."""

    kind: Literal["mistake_tuning"] = "mistake_tuning"
    correct: str = "[CORRECT RATIONALE] "
    """Before the question of a right rationale, and at use."""
    incorrect: str = "[INCORRECT RATIONALE] "
    """Before the question of a wrong one."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """The best answer, then one wrong answer, by seed where there are several."""
        for record in records:
            yield made(record, "correct", asking(record, before=self.correct), [best(record)])
            bad = wrong(record)
            if bad:
                yield made(record, "incorrect", asking(record, before=self.incorrect), [making.random(record.id).choice(bad)])


CASES = (
    RecordCase(
        "no wrong answer: plain demonstrations under a constant prefix",
        MistakeTuning(),
        [talk("1 + 1?", "2")],
        [talk("[CORRECT RATIONALE] 1 + 1?", "2")],
    ),
    RecordCase(
        "one of each, though two are wrong",
        MistakeTuning(correct="R: ", incorrect="W: "),
        [talk("1 + 1?", answers=["3", "2", "3"], better=[(1, 0), (1, 2)])],
        [talk("R: 1 + 1?", "2"), talk("W: 1 + 1?", "3")],
    ),
)
