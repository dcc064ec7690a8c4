"""Tailored learning: the student answers, its mistakes are shown to a teacher, and what the teacher says of them is learned, round after round.

    round:  the student answers every question;  a wrong answer goes to the teacher with the question, and its rationale comes back if it ends right;
            all rationales so far are trained, each beside another right one and a wrong one of its question (`self_reflection`)

Wang et al. 2023, arXiv 2310.13332 (S006, Learn-to-Reason). At most 10 right and 4 wrong ones are kept of a question, the latest, as in the released
code. The student's own right answers are right ones of their question. The teacher is the model of `temper run tailored --teacher T`; without one a
record's best answer is what it says: then only which questions are learned is tailored. Whether an answer is right is told by how it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, asking, best, made, right, spoken
from tempering.types import Record

FAMILY = "rounds"
CATALOGUE = ("S006",)
CONFUSED_WITH = {"lema": "its mistakes stand in the prompt", "mistake_tuning": "wrong rationales are learned, under a name of their own"}


class Tailored(Maker):
    """Rationales for what the student got wrong, with a wrong answer and another right one beside each."""

    kind: Literal["tailored"] = "tailored"
    samples: Annotated[int, Field(ge=1)] = 4
    """Answers of the student to each question in each round."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of these answers."""
    positives: Annotated[int, Field(ge=1)] = 10
    """Right rationales that are kept of a question."""
    negatives: Annotated[int, Field(ge=1)] = 4
    """Wrong ones."""
    show: str = "\n\nA student answered:\n{attempt}\n\nThat is wrong. Explain step by step how it is done, and end with the answer."
    """What the teacher is told after the question; {attempt} is the student's answer."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """A pair for each rationale so far, before a wrong answer; a third response is another right one, where there is one."""
        records, memory = list(records), making.memory
        memory["round"] = memory.get("round", -1) + 1
        shown = self._shown(records, making)
        golds = [spoken(best(record).messages) for record, _ in shown]
        said = [texts[0] for texts in making.taught([prompt for _, prompt in shown], 1, 0.0)] if making.taught and shown else golds
        badly = set()
        for (record, _), text, gold in zip(shown, said, golds, strict=True):
            if right(text, gold):
                _keep(memory, "rationales", record.id, text.strip(), self.positives)
            else:
                badly.add(record.id)
        for record in records:
            if not (told := memory.get("rationales", {}).get(record.id, ())):
                making.drop(record, "the teacher's rationale ends wrongly" if record.id in badly else "the student has always been right")
            for i, text in enumerate(told):
                draw = making.random(record.id, memory["round"], i)
                good = [other for other in [*told, *memory.get("right", {}).get(record.id, ())] if other != text]
                beside = [draw.choice(memory["wrong"][record.id]), *([draw.choice(good)] if good else [])]
                better = ((0, 1), (2, 1))[: len(beside)]
                yield made(record, f"rationale-{i}", record.prompt, [answer(text), *map(answer, beside)], better=better)

    def _shown(self, records: list[Record], making: Making) -> list[tuple[Record, Any]]:
        """The questions that the student got wrong with what the teacher is told of them; the student's answers are kept."""
        shown, answers = [], making.ask([r.prompt for r in records], self.samples, self.temperature) if records else []
        for record, texts in zip(records, answers, strict=True):
            gold = spoken(best(record).messages)
            for text in filter(None, texts):
                fine = right(text, gold)
                _keep(making.memory, "right" if fine else "wrong", record.id, text, self.positives if fine else self.negatives)
            if wrong := [text for text in texts if text and not right(text, gold)]:
                shown.append((record, asking(record, after=self.show.replace("{attempt}", wrong[0]))))
        return shown


def _keep(memory: dict[str, Any], name: str, key: str, text: str, most: int) -> None:
    """Put a text behind those of its question, the latest `most` of which are kept, each once."""
    texts = memory.setdefault(name, {}).setdefault(key, [])
    if text in texts:
        texts.remove(text)
    texts.append(text)
    del texts[:-most]


_ONE, _TWO = talk("1 + 1?", "So 2"), talk("2 + 2?", "So 4")
_ASKED = {"1 + 1?": ["3", "1 + 1 = 2", "3", "5"], "2 + 2?": ["4", "4", "So 4", "4"]}
CASES = (
    RecordCase(
        "what the student got wrong, before its wrong answer, with its own right one; what it always got right is left out",
        Tailored(negatives=1),
        [_ONE, _TWO],
        [talk("1 + 1?", answers=["So 2", "5", "1 + 1 = 2"], better=[(0, 1), (2, 1)])],
        dropped={"the student has always been right": 1},
        answers=_ASKED,
    ),
    RecordCase(
        "in a later round: rationales stay, and a question without a right one of its own has a pair",
        Tailored(samples=1),
        [_ONE, _TWO],
        [talk("1 + 1?", answers=["So 2", "3"], better=[(0, 1)]), talk("2 + 2?", answers=["Four, 4", "7", "4"], better=[(0, 1), (2, 1)])],
        dropped={},
        answers=_ASKED,
        memory={"round": 0, "rationales": {"2 + 2?": ["Four, 4"]}, "wrong": {"2 + 2?": ["7"]}},
    ),
)
