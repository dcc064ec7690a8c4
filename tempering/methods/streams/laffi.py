"""LaFFi: learn to predict the feedback that the model's own answer gets.

Li et al. 2024, arXiv 2401.00907. The model answers each question; a person or a model writes feedback on that answer; training predicts the feedback
given question and answer, with a loss on the feedback alone, and the test is plain answering. Feedback may be written in the field "feedback" (on the
record's answer in the field "own", or on what the model says now); else it confirms a right answer and tells the right one for a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, assistant, best, made, right, spoken, user
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S031",)


class LaFFi(Maker):
    """Feedback on the model's answers as what is said next."""

    kind: Literal["laffi"] = "laffi"
    question: str = "What feedback does this answer get?"
    """Asked after the answer."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """One demonstration a record: question, own answer, feedback."""
        records = list(records)
        silent = [record for record in records if "own" not in record.tags]
        said = iter(making.ask([record.prompt for record in silent])) if silent else iter(())
        for record in records:
            own = str(record.tags["own"]) if "own" in record.tags else next(said)[0]
            gold = spoken(best(record).messages)
            feedback = str(record.tags.get("feedback") or ("The answer is right." if right(own, gold) else f"The answer is wrong. It is: {gold}"))
            yield made(record, "", (*record.prompt, assistant(own), user(self.question)), [answer(feedback)])


_Q = LaFFi().question
CASES = (
    RecordCase(
        "confirmed, and corrected with the gold answer; the model's answers are context",
        LaFFi(),
        [talk("Capital of Peru?", "Lima"), talk("Capital of Cuba?", "Havana")],
        [
            talk("Capital of Peru?", "It is Lima.", _Q, "The answer is right."),
            talk("Capital of Cuba?", "Lima", _Q, "The answer is wrong. It is: Havana"),
        ],
        answers={"Capital of Peru?": ["It is Lima."], "Capital of Cuba?": ["Lima"]},
    ),
    RecordCase(
        "written feedback on an answer that was kept: the model is not asked",
        LaFFi(question="And?"),
        [talk("Capital of Peru?", "Lima", own="Quito", feedback="Quito is in Ecuador.")],
        [talk("Capital of Peru?", "Quito", "And?", "Quito is in Ecuador.")],
    ),
)
