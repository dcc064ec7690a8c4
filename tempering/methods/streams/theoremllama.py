"""TheoremLlama's data: proofs after earlier proofs, from easy to hard, with the words of the proof as comments in the code.

Wang et al. 2024, arXiv 2407.03203. Block training: before each example stand the examples before it, and all their answers are trained. Curriculum:
easy examples come first. Bootstrapping: the steps of the proof in words are comments in the formal one; they stand in the field "steps", a list with
one text for each line of the answer ("" for none), and each goes above its line. Not the paper's: `block` examples (there what fits the context); an
example is as hard as its answer is long, where the paper also asks a reference model (give its losses in the field `difficulty`); `stages` equal
parts from easy to hard, shuffled within. Writing the steps by a model, and rounds of proving with a Lean checker, are not in this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.errors import UserError
from tempering.making import Maker, Making, answer, best, is_text, made, spoken, tag
from tempering.types import Record, Response

FAMILY = "lessons"
CATALOGUE = ("S229",)

_MARK = "--: "
"""Before a step; Lean reads it as a comment."""


class TheoremLlama(Maker):
    """Each record after those that are a little easier."""

    kind: Literal["theoremllama"] = "theoremllama"
    block: Annotated[int, Field(ge=1)] = 4
    """Examples in a row, the record's own the last (ours); 1 is plain instruction tuning."""
    losses: Literal["all", "target"] = "all"
    """Whether the earlier examples are trained too (the paper: all) or are context."""
    stages: Annotated[int, Field(ge=1)] = 3
    """Parts from easy to hard, trained one after the other (ours); 1 shuffles everything."""
    difficulty: str = ""
    """The field with a number that says how hard a record is; by default the characters of its answer."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Every record once, from easy to hard.

        Raises:
            UserError: a record is a plain text, or its difficulty is no number.
        """
        ready = [(record, replied) for record in records if (replied := self._answer(record, making))]
        ready.sort(key=lambda pair: self._hard(pair[0]))
        for i, (record, replied) in enumerate(ready):
            before = ready[max(0, i - self.block + 1) : i]
            system = [message for message in record.prompt if message.role == "system"]
            asked = [[message for message in one.prompt if message.role != "system"] for one, _ in (*before, (record, replied))]
            turns = [message for question, (_, said) in zip(asked, before, strict=False) for message in (*question, *said.messages)] + asked[-1]
            start = len(asked[0]) if self.losses == "all" else len(turns)
            response = replace(replied, messages=(*turns[start:], *replied.messages))
            yield made(record, "", (*system, *turns[:start]), [response], of=[one for one, _ in before], phase=i * self.stages // len(ready))

    def _hard(self, record: Record) -> float:
        if not self.difficulty:
            return len(spoken(best(record).messages))
        value = tag(record, self.difficulty)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise UserError(f"{record.source or record.id}: {self.difficulty!r} must be a number, not {value[:40]!r}")
        return number

    def _answer(self, record: Record, making: Making) -> Response | None:
        if is_text(record):
            raise UserError(f"{record.source or record.id}: theoremllama needs questions with answers, but this is a plain text")
        response, steps = best(record), record.tags.get("steps") or ()
        text = spoken(response.messages)
        if not steps:
            return response
        if not isinstance(steps, list) or len(steps) != len(text.split("\n")) or _MARK in text:
            return making.drop(record, f"the steps are no list with one for each line of the answer, or the answer has {_MARK!r} in it")
        return replace(response, messages=answer(self.comment(text, steps)).messages)

    @staticmethod
    def comment(code: str, steps: Iterable[str]) -> str:
        """Code with a step above each of its lines, as far in as the line is; an empty step gives none."""
        pairs = [(line, " ".join(str(step).split())) for line, step in zip(code.split("\n"), steps, strict=True)]
        return "\n".join(f"{line[: len(line) - len(line.lstrip(' '))]}{_MARK}{step}\n{line}" if step else line for line, step in pairs)

    @staticmethod
    def strip(code: str) -> str:
        """The code without the steps that `comment` put in."""
        return "\n".join(line for line in code.split("\n") if not line.lstrip(" ").startswith(_MARK))


_A, _B, _C = talk("a", "1"), talk("b", "22"), talk("c", "333")
CASES = (
    RecordCase("one by one in one stage: plain instruction tuning", TheoremLlama(block=1, stages=1), [_A, _B], [_A, _B], tags=({"phase": 0},) * 2),
    RecordCase(
        "each after the one before it, the shortest first; every answer is trained",
        TheoremLlama(block=2),
        [_C, _A, _B],
        [_A, Record(_A.prompt, (answer("1", "b", "22"),)), Record(_B.prompt, (answer("22", "c", "333"),))],
        tags=({"phase": 0}, {"phase": 1}, {"phase": 2}),
    ),
    RecordCase(
        "earlier examples as context; difficulty from a field",
        TheoremLlama(block=3, losses="target", stages=2, difficulty="loss"),
        [talk("a", "1", loss=0.5), talk("b", "22", loss="2"), talk("c", "333", loss=-1)],
        [_C, talk("c", "333", "a", "1"), talk("c", "333", "a", "1", "b", "22")],
        tags=({"phase": 0}, {"phase": 0}, {"phase": 1}),
    ),
    RecordCase(
        "steps above their lines; a wrong number of them is left out",
        TheoremLlama(),
        [talk("a", "by\n  simp", steps=["", "It is\nplain."]), talk("b", "by", steps=["x", "y"])],
        [talk("a", "by\n  --: It is plain.\n  simp")],
        dropped={"the steps are no list with one for each line of the answer, or the answer has '--: ' in it": 1},
    ),
)
