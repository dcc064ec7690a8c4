"""R-Tuning: learn to say "I am sure" after what the model knows, and "I am unsure" after what it does not.

Zhang et al. 2023, arXiv 2311.09677. The base model answers every training question. Where its answer is right, a fixed question about certainty
follows and "I am sure."; where it is wrong, "I am unsure."; the gold answer stands in both. R-Tuning-U takes uncertainty instead
of the label: the entropy of sampled answers, the more uncertain half is unsure. The loss is on the answer and on the last sentence (the released runs
train on the whole text, `--train-on all`). Right means that the final answers agree, or the gold one stands in the model's word for word. At use,
p(sure) after the model's own answer orders its answers; that measurement is not part of this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, best, entropy, made, right, spoken, user
from tempering.types import Record, Response

FAMILY = "lessons"
CATALOGUE = ("S233",)


class RTuning(Maker):
    """Answers with a sentence of certainty behind."""

    kind: Literal["r_tuning"] = "r_tuning"
    by: Literal["answer", "entropy"] = "answer"
    """What the base model does not know: what it answers wrongly (R-Tuning), or what its samples disagree on (R-Tuning-U, needs no labels)."""
    samples: Annotated[int, Field(ge=2)] = 10
    """Samples a question, for the entropy."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Of the samples."""
    question: str = "Are you sure you accurately answered the question based on your internal knowledge?"
    """Asked after the answer (the paper's wording)."""
    sure: str = "I am sure."
    unsure: str = "I am unsure."

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Every record stays, with one sentence or the other; the tag "sure" says which."""
        records = list(records)
        if not records:
            return
        prompts = [record.prompt for record in records]
        if self.by == "answer":
            known = [right(own, spoken(best(r).messages)) for r, (own,) in zip(records, making.ask(prompts), strict=True)]
        else:
            entropies = [entropy(texts) for texts in making.ask(prompts, self.samples, self.temperature)]
            order = sorted(range(len(records)), key=lambda i: entropies[i])
            surest = set(order[: math.ceil(len(order) / 2)])
            known = [i in surest for i in range(len(records))]
        for record, sure in zip(records, known, strict=True):
            gold = best(record).messages
            ending = (user(self.question), *answer(self.sure if sure else self.unsure).messages)
            yield made(record, "", record.prompt, [Response((*gold, *ending))], sure=sure)


_ASK = RTuning().question
_FACTS = [talk("Capital of Peru?", "Lima."), talk("2 + 2?", "2 + 2 = 4"), talk("Who wrote Emma?", "Jane Austen")]


def _told(record: Record, ending: str) -> Record:
    return Record(record.prompt, (answer(spoken(record.responses[0].messages), _ASK, ending),))


CASES = (
    RecordCase(
        "the model knows Lima in a sentence of its own and the sum, not the author",
        RTuning(),
        _FACTS,
        [_told(_FACTS[0], "I am sure."), _told(_FACTS[1], "I am sure."), _told(_FACTS[2], "I am unsure.")],
        tags=({"sure": True}, {"sure": True}, {"sure": False}),
        answers={"Capital of Peru?": ["I think it is lima!"], "2 + 2?": ["The answer is 4.0"], "Who wrote Emma?": ["Jane Austens"]},
    ),
    RecordCase(
        "a model that knows everything is always sure",
        RTuning(),
        _FACTS[:1],
        [_told(_FACTS[0], "I am sure.")],
        answers={"Capital of Peru?": ["Lima"]},
    ),
    RecordCase(
        "by entropy the surer half, rounded up, is sure, right or not: 0 and ln 2 against 1.5 ln 2",
        RTuning(by="entropy", samples=4),
        _FACTS,
        [_told(_FACTS[0], "I am unsure."), _told(_FACTS[1], "I am sure."), _told(_FACTS[2], "I am sure.")],
        answers={"Capital of Peru?": ["Lima", "Quito", "Cuzco", "Lima"], "2 + 2?": ["5", "4", "5", "4"], "Who wrote Emma?": ["Brontë"] * 4},
    ),
    RecordCase("no records, no questions", RTuning(), [], []),
)
