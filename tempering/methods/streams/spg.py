"""Synthetic preference generation: where most of the policy's own answers agree, they are preferred to those that do not.

Lang et al. 2024, arXiv 2403.19279 (RLP; S148): several answers to a prompt are sampled and clustered; if the largest cluster holds at least a share
`confidence` of them, one of its answers is chosen and one from outside it rejected. Clusters are made here by words: two answers are linked where
the Jaccard index of their words is at least `alike`, and what is linked over others is one cluster; how the paper clusters, its number of samples and
its threshold are not known, so all three are choices of this file. Pairs that the data have are kept in front of what is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import Field

from tempering.cases import RecordCase, talk
from tempering.making import Maker, Making, answer, made, plain_words
from tempering.types import Record

FAMILY = "comparisons"
CATALOGUE = ("S148",)


class SPG(Maker):
    """Pairs of the model's own answers, inside and outside the largest cluster."""

    kind: Literal["spg"] = "spg"
    samples: int = Field(default=8, ge=2)
    """Answers to each prompt."""
    temperature: float = Field(default=1.0, gt=0)
    confidence: float = Field(default=0.5, ge=0)
    """Share of the answers that the largest cluster must hold; above 1 nothing is made."""
    alike: float = Field(default=0.5, ge=0, le=1)
    """Share of the words of two answers that both have, for them to be linked."""

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Each prompt is asked once, however many records have it; records that gave no pair are left out."""
        given = list(records)
        prompts = list(dict.fromkeys(record.prompt for record in given))
        asked = prompts if self.confidence <= 1 else []
        answers = dict(zip(asked, making.ask(asked, self.samples, self.temperature) if asked else [], strict=True))
        first = {record.prompt: record.id for record in reversed(given)}
        for record in given:
            scores = {response.score for response in record.responses}
            labelled = bool(record.better) or len(scores) > 1
            if labelled:
                yield made(record, "", record.prompt, record.responses, better=record.better)
            texts = answers.get(record.prompt, []) if first[record.prompt] == record.id else []
            inside = _largest(texts, self.alike)
            outside = [text for i, text in enumerate(texts) if i not in inside]
            if texts and outside and len(inside) >= self.confidence * len(texts):
                draw = making.random(record.id)
                both = [answer(texts[draw.choice(inside)]), answer(draw.choice(outside))]
                yield made(record, "synthetic", record.prompt, both, better=((0, 1),))
            elif not labelled:
                making.drop(record, "the model's answers do not agree enough, or all agree" if texts else "no pair, and nothing was asked")


def _largest(texts: Sequence[str], alike: float) -> list[int]:
    """Places of the largest cluster's texts; of equal ones the first."""
    words = [set(plain_words(text).split()) for text in texts]
    left, best = list(range(len(texts))), list[int]()
    while left:
        cluster, edge = [], [left[0]]
        while edge:
            cluster, left = [*cluster, *edge], [i for i in left if i not in edge]
            edge = [i for i in left if any(_jaccard(words[i], words[j]) >= alike for j in edge)]
        best = max(best, sorted(cluster), key=len)
    return best


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


_THREE = ["Use fresh water.", "use FRESH cold water", "Use cold water", "No idea."]
_PAIR = talk("Tea?", answers=["good", "bad"], better=[(0, 1)])
CASES = (
    RecordCase(
        "three answers of four agree, the third with the first only by way of the second; the data's own pair stays in front",
        SPG(samples=4, alike=0.6, confidence=0.75),
        [_PAIR],
        [_PAIR, talk("Tea?", answers=["use FRESH cold water", "No idea."], better=[(0, 1)])],
        answers={"Tea?": _THREE},
        seed=0,
    ),
    RecordCase(
        "at a confidence above that share nothing is made, and a prompt without a pair is left out",
        SPG(samples=4, alike=0.6, confidence=0.76),
        [_PAIR, Record(talk("Why?").responses[0].messages, (), id="why")],
        [_PAIR],
        answers={"Tea?": _THREE, "Why?": ["a", "b", "c", "d"]},
        dropped={"the model's answers do not agree enough, or all agree": 1},
    ),
    RecordCase("above 1 nothing is asked", SPG(confidence=1.01), [_PAIR], [_PAIR]),
    RecordCase(
        "where all agree nobody is worse",
        SPG(samples=2),
        [_PAIR],
        [_PAIR],
        answers={"Tea?": ["yes", "Yes!"]},
    ),
)
