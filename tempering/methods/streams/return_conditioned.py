"""Return-conditioned training: imitate one's own answers, right and wrong ones, behind a word that says which; later ask for the right kind.

One of the three learners that Havrilla et al. 2024 compare ("Teaching Large Language Models to Reason with Reinforcement Learning", arXiv 2403.04642,
S019); the others are `temper run expert_iteration` and `temper run ppo`. The model answers each question several times; each different answer is a
demonstration behind "[GOOD]" where it ends like the record's answer, and behind "[BAD]" where it does not. Unlike in the paper the word stands once,
before the question, not before every step. To use the model, write "[GOOD]" and a space before what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, asking, best, made, right, spoken
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S019",)


class ReturnConditioned(Maker):
    """Own answers behind [GOOD] or [BAD]."""

    kind: Literal["return_conditioned"] = "return_conditioned"
    samples: Annotated[int, Field(ge=1)] = 8
    """Answers of the model to each question."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of those answers."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Every different answer once, but empty ones, with the tag "good"."""
        records = list(records)
        asked = making.ask([record.prompt for record in records], self.samples, self.temperature) if records else []
        for record, texts in zip(records, asked, strict=True):
            gold, own = spoken(best(record).messages), [text for text in dict.fromkeys(texts) if text]
            if not own:
                making.drop(record, "the model says nothing")
            for i, text in enumerate(own):
                good = right(text, gold)
                yield made(record, f"own-{i}", asking(record, before="[GOOD] " if good else "[BAD] "), [answer(text)], good=good)


CASES = (
    RecordCase(
        "each different answer once, behind its word; nothing said is no answer",
        ReturnConditioned(samples=4),
        [talk("2 and 3?", "Answer: 5"), talk("1 and 1?", "2")],
        [talk("[GOOD] 2 and 3?", "5"), talk("[BAD] 2 and 3?", "6")],
        tags=({"good": True}, {"good": False}),
        answers={"2 and 3?": ["5", "6", "", "5"], "1 and 1?": ["", "", "", ""]},
        dropped={"the model says nothing": 1},
    ),
    RecordCase("no records, no questions", ReturnConditioned(), [], []),
)
