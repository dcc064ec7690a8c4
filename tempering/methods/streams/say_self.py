"""SaySelf, stage 1: learn to say how sure one is, and why.

Xu et al. 2024, arXiv 2405.20974. The model answers each question several times; answers that end alike form a cluster. The demonstration is the gold
answer, a sentence on what the samples disagreed about, and a confidence: the share of the samples that end like the gold answer. In the paper a
strong model clusters the samples by meaning and writes the reflection; here answers are compared by what they end with and the other answers are
listed. The paper speaks about one of the model's own answers; here it is the gold one, so that no wrong answer is imitated. Stage 2 (PPO) is not part
of this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, best, final_answer, made, right, spoken
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S228",)


class SaySelf(Maker):
    """Answers with a reflection and a confidence behind."""

    kind: Literal["say_self"] = "say_self"
    samples: Annotated[int, Field(ge=1)] = 10
    """Answers of the model to each question."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of those answers (not checked in the released code)."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Every record, with the tag "confidence"."""
        records = list(records)
        if not records:
            return
        for record, texts in zip(records, making.ask([record.prompt for record in records], self.samples, self.temperature), strict=True):
            gold = spoken(best(record).messages)
            others = Counter(final_answer(text) for text in texts if not right(text, gold))
            share = (len(texts) - others.total()) / len(texts)
            listed = ", ".join(sorted(name or "nothing" for name in others))
            doubt = f"I am not certain: it might also be {listed}." if others else "I see no other answer."
            yield made(record, "", record.prompt, [answer(f"{gold}\n{doubt}\nConfidence: {share:.0%}")], confidence=share)


CASES = (
    RecordCase(
        "identical right samples give 100%",
        SaySelf(samples=2),
        [talk("Capital of Peru?", "Lima")],
        [talk("Capital of Peru?", "Lima\nI see no other answer.\nConfidence: 100%")],
        tags=({"confidence": 1.0},),
        answers={"Capital of Peru?": ["Lima", "It is Lima."]},
    ),
    RecordCase(
        "one of four is right, one says nothing",
        SaySelf(samples=4),
        [talk("Capital of Peru?", "Lima")],
        [talk("Capital of Peru?", "Lima\nI am not certain: it might also be nothing, quito.\nConfidence: 25%")],
        tags=({"confidence": 0.25},),
        answers={"Capital of Peru?": ["Quito", "Lima", "", "quito!"]},
    ),
    RecordCase("no records, no questions", SaySelf(), [], []),
)
