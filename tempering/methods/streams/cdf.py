"""CDF, critiques and refinements: easy prompts teach to criticise an answer, medium ones to improve it.

Yu et al. 2023, arXiv 2310.06450, constructive and diverse feedback. Prompts are parted by difficulty; an easy one gives a critique of one of its
answers, (x, y) -> critique, a medium one a better answer than one of its answers, (x, y) -> refined, and a hard one a preference: `cdf_pairs`,
run on the model that this gives with the same data, test rows, seed and shares, so that the parts are the same. Only what is written last is trained.

What is left. The paper trains the three kinds jointly with weighted losses; a recipe here takes demonstrations or pairs, so they come one after the
other. Its critic and refiner are models: critiques (and refinements) must be written in the data, a list with one text for each of the record's
answers; a missing refinement is the best answer where that is strictly better. Its measure of difficulty was not checked. One item a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from tempering.cases import RecordCase, talk
from tempering.making import Making, answer, made, ordered, overall, spoken, user
from tempering.methods.streams._difficulty import Parted
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S204",)


class CDF(Parted):
    """Critiques for easy prompts and refinements for medium ones."""

    kind: Literal["cdf"] = "cdf"
    critiques: str = "critiques"
    """The field with a critique of each answer ("" where there is none)."""
    refinements: str = "refinements"
    """The field with a better version of each answer ("" where there is none)."""
    criticise: str = "What is good and what is bad about this answer?"
    """Asked after an answer of an easy prompt (our wording)."""
    refine: str = "Write a better answer."
    """Asked after an answer of a medium prompt (our wording)."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Hard prompts are left out, and those without the feedback that their part needs.

        Raises:
            UserError: how hard a prompt is cannot be told.
        """
        for part, record in self.parts(list(records)):
            if part == "hard":
                making.drop(record, "hard: cdf_pairs learns from it")
                continue
            texts = [spoken(response.messages) for response in record.responses]
            if part == "easy":
                asked, feedback = self.criticise, _written(record, self.critiques)
            else:
                asked, feedback = self.refine, {**_better(record, texts), **_written(record, self.refinements)}
            if not feedback:
                making.drop(record, f"{part}: no {'critique' if part == 'easy' else 'better answer'}")
                continue
            i = making.random(record.id).choice(sorted(feedback))
            yield made(record, part, (*record.prompt, *answer(texts[i]).messages, user(asked)), [answer(feedback[i])], part=part)


def _written(record: Record, field: str) -> dict[int, str]:
    listed = record.tags.get(field)
    texts = listed if isinstance(listed, list | tuple) else []
    return {i: text for i, text in enumerate(texts[: len(record.responses)]) if isinstance(text, str) and text.strip()}


def _better(record: Record, texts: list[str]) -> dict[int, str]:
    """Answer -> the best one, for those that it beats."""
    pairs = record.better or ordered([overall(response) for response in record.responses])
    top = [i for i, _ in pairs if i not in {j for _, j in pairs}]
    return {j: texts[i] for i, j in pairs if i == top[0]} if top else {}


def _rated(prompt: str, *scores: float, **tags: Any) -> Record:
    record = talk(prompt, answers=[f"{prompt}{score:g}" for score in scores], **tags)
    return replace(record, responses=tuple(replace(r, score=score) for r, score in zip(record.responses, scores, strict=True)))


_ALL = [_rated("h", 1, 2), _rated("e", 9, 7, critiques=["", "Too short."]), _rated("m", 3, 6)]
_EASY, _MEDIUM = talk("e", "e7", CDF().criticise, "Too short."), talk("m", "m3", CDF().refine, "m6")
_HARD = "hard: cdf_pairs learns from it"
CASES = (
    RecordCase(
        "means 8, 4.5 and 1.5: one of each part", CDF(), _ALL, [_EASY, _MEDIUM], tags=({"part": "easy"}, {"part": "medium"}), dropped={_HARD: 1}
    ),
    RecordCase("all hard leaves nothing to these two", CDF(easy=0, medium=0), _ALL, [], dropped={_HARD: 3}),
    RecordCase("critiques alone, where they are written", CDF(easy=1, medium=0), _ALL, [_EASY], dropped={"easy: no critique": 2}),
    RecordCase(
        "refinements alone: a written one comes first, pairs tell the best, ties give none; the field says what is hard",
        CDF(easy=0, medium=1, refine="Better!", difficulty="level"),
        [
            talk("a", answers=["x"], refinements=["y"], level=1),
            talk("b", answers=["x", "y"], better=[(1, 0)], level="2"),
            *[_rated("c", 4, 4, level=3), _rated("d", 5, 3, refinements=["", "z"], level=3)],
        ],
        [talk("a", "x", "Better!", "y"), talk("b", "x", "Better!", "y"), talk("d", "d3", "Better!", "z")],
        dropped={"medium: no better answer": 1},
    ),
)
