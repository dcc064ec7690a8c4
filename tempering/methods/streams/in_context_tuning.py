"""In-context tuning: train a model to answer after examples of the task, so that it learns from examples at use.

Chen et al. 2021, arXiv 2110.07814: minimise -log p(y | instruction, (x1, y1) ... (xK, yK), x) over tasks, with a loss on y alone. The K examples are
other records of the same task and stand before the question as turns of the conversation. The paper draws them anew at each step; here each record
is given `rounds` times with other draws. Records say their task in a field; a task with fewer than K other records gives all it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, best, made, tag
from tempering.types import Message, Record

FAMILY = "lessons"
CATALOGUE = ("S080",)


class InContextTuning(Maker):
    """Each record after K others of its task."""

    kind: Literal["in_context_tuning"] = "in_context_tuning"
    k: Annotated[int, Field(ge=0)] = 5
    """Examples before the question (the paper: 5); 0 is plain instruction tuning."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """How often each record is given, each time after other examples."""
    field: str = "task"
    """The field that says of which task a record is."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Every record, `rounds` times.

        Raises:
            UserError: a record has no task.
        """
        records = list(records)
        tasks: dict[str, list[Record]] = {}
        for record in records:
            tasks.setdefault(tag(record, self.field) if self.k else "", []).append(record)
        for turn in range(self.rounds):
            for record in records:
                others = [other for other in tasks[tag(record, self.field) if self.k else ""] if other is not record]
                support = making.random(record.id, turn).sample(others, min(self.k, len(others)))
                system = [message for message in record.prompt if message.role == "system"]
                shown = [m for other in support for m in (*_without_system(other), *best(other).messages)]
                yield made(record, f"round-{turn}", (*system, *shown, *_without_system(record)), [best(record)], of=support)


def _without_system(record: Record) -> list[Message]:
    return [message for message in record.prompt if message.role != "system"]


_UP, _DOWN, _OTHER = talk("a", "A", task="upper"), talk("b", "B", task="upper"), talk("7", "odd", task="parity")
CASES = (
    RecordCase("without examples it is instruction tuning, and no task is needed", InContextTuning(k=0), [talk("a", "A")], [talk("a", "A")]),
    RecordCase(
        "examples are of the same task and never the record itself; a task of one record has none",
        InContextTuning(k=1),
        [_UP, _DOWN, _OTHER],
        [talk("b", "B", "a", "A"), talk("a", "A", "b", "B"), talk("7", "odd")],
    ),
    RecordCase("two rounds", InContextTuning(k=3, rounds=2), [_UP, _DOWN], [talk("b", "B", "a", "A"), talk("a", "A", "b", "B")] * 2),
)
