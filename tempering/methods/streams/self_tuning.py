"""Self-Tuning: learn a text by tasks that are made of the text alone.

Zhang et al. 2024, arXiv 2406.06326. Each plain text gives itself (memorise); with the text at hand its gist, its key entities and which of two
sentences it says (comprehend); and from memory telling it, telling it from its entities, and the missing name, the choice or the ending of a sentence
(reflect). Three phases: texts, tasks and questions; new texts without tasks beside the questions again; new texts alone. A text is new where its
field says so; without new texts there is one phase. Other records are the questions. The kinds of task and the phases are recalled from the paper.

Deviations. Every answer stands in the text, and each item of a list does: inference chooses between two sentences where the paper asks true or false,
and the gist is the first line or sentence where it asks for the title. Entities are found by a pattern (capitals and numbers), so a text without
capitals gives fewer tasks; what replaces a name may be of another kind (a place for a person). The prompts are our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, plain, talk
from tempering.making import Maker, Making, answer, is_text, made, user
from tempering.methods.streams._texts import entities, on_sentence, sentences
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S005",)

Task = Literal["gist", "entities", "inference", "tell", "flashcards", "cloze", "choice", "completion"]


class SelfTuning(Maker):
    """Texts, tasks made of them, and questions, in three phases."""

    kind: Literal["self_tuning"] = "self_tuning"
    tasks: tuple[Task, ...] = ("gist", "entities", "inference", "tell", "flashcards", "cloze", "choice", "completion")
    """What is made of a text that is not new, beside the text itself."""
    each: Annotated[int, Field(ge=1)] = 1
    """How many sentences of a text, drawn by seed, give an item of each task on sentences (our choice; a short text gives fewer)."""
    options: Annotated[int, Field(ge=2)] = 4
    """Options of a choice at most, the right one among them (recalled)."""
    field: str = "new"
    """The field that says whether a text is new; empty, false or absent is not."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """The phases in order; nothing is dropped."""
        records = list(records)
        new = [record for record in records if self._is_new(record)]
        for record in (record for record in records if not self._is_new(record)):
            yield made(record, "", record.prompt, record.responses, better=record.better, phase=0)
            text = "".join(m.content for m in (*record.prompt, *record.responses[0].messages)) if is_text(record) and record.responses else ""
            for task in self.tasks if text else ():
                for i, (question, wanted) in enumerate(self._items(task, text, making.random(record.id, task))):
                    yield made(record, f"{task}-{i}", (user(question),), [answer(wanted)], phase=0, task=task)
        for record in (record for record in records if new and not is_text(record)):
            yield made(record, "review", record.prompt, record.responses, better=record.better, phase=1)
        for record in new:
            yield made(record, "", record.prompt, record.responses, phase=1)
            yield made(record, "again", record.prompt, record.responses, phase=2)

    def _is_new(self, record: Record) -> bool:
        return is_text(record) and str(record.tags.get(self.field) or "").lower() not in ("", "false", "0", "no")

    def _items(self, task: Task, text: str, draw: random.Random) -> Iterator[tuple[str, str]]:
        """(question, answer) of a task; none where the text does not allow it."""
        said, names = sentences(text), entities(text)
        listed = ", ".join(names)
        if task == "gist" and len(said) > 1:
            yield f"{text}\n\nWhat is this text about?", said[0]
        elif task == "entities" and names:
            yield f"{text}\n\nList the names and numbers in this text.", listed
        elif task == "tell" and names:
            yield f"Tell me about {names[0]}.", text
        elif task == "flashcards" and len(names) > 1:
            yield f"Write down what you know of {names[0]}, with these keywords: {listed}.", text
        elif task in ("inference", "cloze", "choice", "completion"):
            made_of = (on_sentence(task, text, sentence, names, draw, self.options) for sentence in draw.sample(said, len(said)))
            good = [item for item in made_of if item]
            yield from good[: self.each]


_TWO = "we saw Riga. we liked the town of Oslo."
_ASK = "{}\n\nList the names and numbers in this text."
CASES = (
    RecordCase(
        "no tasks and no questions: the texts alone, the new one in the second phase and the third",
        SelfTuning(tasks=()),
        [plain("New.", new=True), plain("Old.", new="false")],
        [plain("Old."), plain("New."), plain("New.")],
        tags=({"phase": 0}, {"phase": 1}, {"phase": 2}),
    ),
    RecordCase(
        "one name gives no card, no choice and no inference; questions are seen again beside the new text",
        SelfTuning(field="late"),
        [plain("Mia was there."), plain("N", late=1), talk("Who?", "Mia")],
        [
            *[plain("Mia was there."), talk(_ASK.format("Mia was there."), "Mia"), talk("Tell me about Mia.", "Mia was there.")],
            *[talk("Fill in the blank: ____ was there.", "Mia"), talk("Who?", "Mia"), talk("Who?", "Mia"), plain("N"), plain("N")],
        ],
        tags=({"phase": 0}, {"task": "entities"}, {"task": "tell"}, {"task": "cloze"}, {"phase": 0}, {"phase": 1}, {"phase": 1}, {"phase": 2}),
    ),
    RecordCase(
        "two names and two sentences allow every task",
        SelfTuning(tasks=("gist", "flashcards", "choice", "inference", "completion")),
        [plain(_TWO)],
        [
            *[plain(_TWO), talk(f"{_TWO}\n\nWhat is this text about?", "we saw Riga.")],
            talk("Write down what you know of Riga, with these keywords: Riga, Oslo.", _TWO),
            talk("Which fills the blank? we saw ____.\n- Riga\n- Oslo", "Riga"),
            talk(
                f"{_TWO}\n\nWhich of these does the text say?\n- we liked the town of Riga.\n- we liked the town of Oslo.",
                "we liked the town of Oslo.",
            ),
            talk("Complete the sentence: we liked the", "town of Oslo."),
        ],
    ),
)
