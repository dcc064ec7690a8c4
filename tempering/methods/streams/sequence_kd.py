"""Sequence-level distillation: the student learns the teacher's own answers to the data's questions, as if they were the data's.

Kim and Rush 2016, arXiv 1606.07947 (section 3.2): where word-level distillation follows the teacher's distribution along given answers, this one
puts the teacher's mode in the place of the data. The paper takes the best of a beam; here it is the greedy answer, or several samples of each
question. `--teacher` names the teacher, whose vocabulary may be another; without it a model learns from itself. Empty answers are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, made
from tempering.types import Record

FAMILY = "lessons"


class SequenceKD(Maker):
    """The teacher's answers in the place of the data's."""

    kind: Literal["sequence_kd"] = "sequence_kd"
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each question."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the answers; 0 is greedy."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """A record for each different answer."""
        records = [record for record in records if record.prompt or making.drop(record, "has no question")]
        for record, texts in zip(records, making.ask([r.prompt for r in records], self.samples, self.temperature), strict=True):
            found = list(dict.fromkeys(text for text in texts if text))
            if not found:
                making.drop(record, "the teacher says nothing")
            for i, text in enumerate(found):
                yield made(record, f"teacher-{i}", record.prompt, [answer(text)])


CASES = (
    RecordCase(
        "what the data answer does not count; one question remains unanswered",
        SequenceKD(),
        [talk("Capital of Peru?", "Quito."), talk("2 + 2?", "5"), talk("Who?", "Me.")],
        [talk("Capital of Peru?", "Lima."), talk("2 + 2?", "4")],
        answers={"Capital of Peru?": ["Lima."], "2 + 2?": ["4"], "Who?": [" "]},
        dropped={"the teacher says nothing": 1},
    ),
    RecordCase(
        "two samples, of which one is as the other",
        SequenceKD(samples=2, temperature=0.7),
        [talk("Capital of Peru?", "Quito."), talk("2 + 2?", "5")],
        [talk("Capital of Peru?", "Lima."), talk("2 + 2?", "4"), talk("2 + 2?", "four")],
        answers={"Capital of Peru?": ["Lima.", "Lima."], "2 + 2?": ["4", "four"]},
    ),
)
