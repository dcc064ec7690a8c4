"""EFL: a classification becomes questions of whether a description fits the text.

Wang et al. 2021, arXiv 2104.14690, entailment as few-shot learner. A text of class c gives one example (text, description of c) -> yes and
`negatives` examples with descriptions of other classes, drawn by seed, -> no. With two classes there is one description only, that of the first by
name, and the answer says whether it fits. At use the class whose description is likeliest to be answered with yes is taken, which looks at each
alone. The paper trains an encoder that knows entailment; here a language model answers, and the unsupervised augmentation is not part of this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, asking, best, made, spoken
from tempering.types import Record

FAMILY = "lessons"
CATALOGUE = ("S090",)


class EFL(Maker):
    """Pairs of a text and a class's description, answered yes or no."""

    kind: Literal["efl"] = "efl"
    negatives: Annotated[int, Field(ge=0)] = 1
    """Wrong descriptions for each text; at most the number of other classes."""
    descriptions: dict[str, str] = Field(default_factory=dict)
    """Class (the answer in the data) -> its description; "It is CLASS." where there is none."""
    yes: str = "yes"
    no: str = "no"

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """n texts with m negatives give n (1 + m) examples; n with two classes."""
        records = list(records)
        labels = [spoken(best(record).messages) for record in records]
        classes = sorted(set(labels))
        for record, label in zip(records, labels, strict=True):
            if len(classes) == 2:
                shown = classes[:1]
            else:
                others = [name for name in classes if name != label]
                shown = [label, *making.random(record.id).sample(others, min(self.negatives, len(others)))]
            for name in shown:
                after = f"\n\nTrue or not: {self.descriptions.get(name, f'It is {name}.')}"
                yield made(record, f"is-{name}", asking(record, after=after), [answer(self.yes if name == label else self.no)])


_ASKED = "{}\n\nTrue or not: {}"
CASES = (
    RecordCase(
        "three classes without negatives, one with a description of its own",
        EFL(negatives=0, descriptions={"good": "The film is liked."}),
        [talk("Fine film", "good"), talk("Dull film", "bad"), talk("A film", "so")],
        [
            talk(_ASKED.format("Fine film", "The film is liked."), "yes"),
            talk(_ASKED.format("Dull film", "It is bad."), "yes"),
            talk(_ASKED.format("A film", "It is so."), "yes"),
        ],
    ),
    RecordCase(
        "two classes: one description, fitting or not",
        EFL(yes="Y", no="N"),
        [talk("Fine film", "good"), talk("Dull film", "bad")],
        [talk(_ASKED.format("Fine film", "It is bad."), "N"), talk(_ASKED.format("Dull film", "It is bad."), "Y")],
    ),
    RecordCase("one class: no wrong description is left", EFL(negatives=2), [talk("A", "x")], [talk(_ASKED.format("A", "It is x."), "yes")]),
)
