"""Self-Tuning: learn a text by tasks that are made of the text alone.

Zhang et al. 2024, arXiv 2406.06326. Each plain text gives itself (memorise); with the text at hand its gist, its key entities and which of two
sentences it says (comprehend); and from memory telling it, telling it from its entities, and the missing name, the choice or the ending of a sentence
(reflect). Three phases: texts, tasks and questions; new texts without tasks beside the questions again; new texts alone. A text is new where its
field says so; without new texts there is one phase. The questions are the texts' field "questions" (a list of [question, answer]; those of new texts
are not trained) and records that are no plain text. The kinds of task and the phases are recalled from the paper.

Deviations. Every answer stands in the text, and each item of a list does: inference chooses between two sentences where the paper asks true or false,
and the gist is the first line or sentence where it asks for the title. Entities are found by a pattern (capitals and numbers), so a text without
capitals gives fewer tasks; what replaces a name may be of another kind (a place for a person). The prompts are our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, plain, talk
from tempering.errors import UserError
from tempering.making import Maker, Making, answer, is_text, made, user
from tempering.methods.streams._texts import items
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
        """The phases in order; nothing is dropped.

        Raises:
            UserError: questions are not as said.
        """
        records = list(records)
        new = [record for record in records if self._is_new(record)]
        questions: list[tuple[Record, str, Record]] = []
        for record in (record for record in records if not self._is_new(record)):
            yield made(record, "", record.prompt, record.responses, better=record.better, phase=0)
            if not is_text(record):
                questions.append((record, "", record))
                continue
            text = "".join(message.content for message in (*record.prompt, *record.responses[0].messages))
            for task in self.tasks:
                for i, (question, wanted) in enumerate(items(task, text, making.random(record.id, task), self.each, self.options)):
                    yield made(record, f"{task}-{i}", (user(question),), [answer(wanted)], phase=0, task=task)
            for i, (question, wanted) in enumerate(_asked(record)):
                yield (asked := made(record, f"question-{i}", (user(question),), [answer(wanted)], phase=0))
                questions.append((record, f"-{i}", asked))
        for record, number, asked in questions if new else ():
            yield made(record, f"review{number}", asked.prompt, asked.responses, better=asked.better, phase=1)
        for record in new:
            yield made(record, "", record.prompt, record.responses, phase=1)
            yield made(record, "again", record.prompt, record.responses, phase=2)

    def _is_new(self, record: Record) -> bool:
        return is_text(record) and str(record.tags.get(self.field) or "").lower() not in ("", "false", "0", "no")


def _asked(record: Record) -> list[tuple[str, str]]:
    asked, pairs = record.tags.get("questions") or [], list[tuple[str, str]]()
    for item in asked if isinstance(asked, list | tuple) else [None]:
        match [item.get("question"), item.get("answer")] if isinstance(item, Mapping) else item:
            case [str(question), str(wanted)] if question.strip() and wanted.strip():
                pairs.append((question, wanted))
            case _:
                raise UserError(f'{record.source or record.id}: "questions" must be a list of [question, answer], both of them text')
    return pairs


_TWO, _SAYS = "we saw Riga. we liked the town of Oslo.", "\n\nWhich of these does the text say?\n- {}\n- {}"
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
        [plain("Mia ran.", questions=[["Who?", "Mia"]]), plain("N", late=1), talk("Who?", "Mia")],
        [
            *[plain("Mia ran."), talk("Mia ran.\n\nList the names and numbers in this text.", "Mia"), talk("Tell me about Mia.", "Mia ran.")],
            *[talk("Fill in the blank: ____ ran.", "Mia"), *[talk("Who?", "Mia")] * 4, plain("N"), plain("N")],
        ],
        tags=({"phase": 0}, {"task": "entities"}, {"task": "tell"}, {"task": "cloze"}, *({"phase": i} for i in (0, 0, 1, 1, 1, 2))),
    ),
    RecordCase(
        "two names and two sentences allow every task",
        SelfTuning(tasks=("gist", "flashcards", "choice", "inference", "completion")),
        [plain(_TWO)],
        [
            *[plain(_TWO), talk(f"{_TWO}\n\nWhat is this text about?", "we saw Riga.")],
            talk("Write down what you know of Riga, with these keywords: Riga, Oslo.", _TWO),
            talk("Which fills the blank? we saw ____.\n- Riga\n- Oslo", "Riga"),
            talk(_TWO + _SAYS.format("we liked the town of Riga.", "we liked the town of Oslo."), "we liked the town of Oslo."),
            talk("Complete the sentence: we liked the", "town of Oslo."),
        ],
    ),
)
