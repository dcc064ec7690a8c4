"""CDF, preferences: hard prompts teach which of two answers is better.

Yu et al. 2023, arXiv 2310.06450, constructive and diverse feedback: the part of the data that `cdf` leaves (its page says what the two are and what
is left out). With no easy and no medium prompts this is preference training alone. Each record gives one pair, drawn by seed from those that it says
or that its scores say. Held-out records are parted too, so of fewer than three a part may be empty: give more (--test).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from tempering.cases import RecordCase, talk
from tempering.making import Making, made, ordered, overall
from tempering.methods.streams._difficulty import Parted
from tempering.types import Record

FAMILY = "comparisons"
CATALOGUE = ("S204",)


class CDFPairs(Parted):
    """A pair for each hard prompt."""

    kind: Literal["cdf_pairs"] = "cdf_pairs"

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Easy and medium prompts are left out, and those where no answer is better than another.

        Raises:
            UserError: how hard a prompt is cannot be told.
        """
        for part, record in self.parts(list(records)):
            pairs = record.better or ordered([overall(response) for response in record.responses])
            if part != "hard" or not pairs:
                making.drop(record, "hard: no answer is better than another" if part == "hard" else f"{part}: cdf learns from it")
                continue
            i, j = making.random(record.id).choice(pairs)
            yield made(record, f"pair-{i}-{j}", record.prompt, [record.responses[i], record.responses[j]], better=((0, 1),), part=part)


def _rated(prompt: str, *scores: float) -> Record:
    record = talk(prompt, answers=["a", "b"], better=[(0, 1)] if scores[0] > scores[1] else [])
    return replace(record, responses=tuple(replace(r, score=score) for r, score in zip(record.responses, scores, strict=True)))


def _turned(record: Record) -> Record:
    return replace(record, responses=record.responses[::-1], better=((0, 1),))


_ALL = [_rated("h", 1, 2), _rated("e", 9, 7), _rated("m", 6, 3)]
CASES = (
    RecordCase(
        "means 8, 4.5 and 1.5: the last is hard",
        CDFPairs(),
        _ALL,
        [_turned(_ALL[0])],
        tags=({"part": "hard"},),
        dropped={"easy: cdf learns from it": 1, "medium: cdf learns from it": 1},
    ),
    RecordCase("all hard: every pair", CDFPairs(easy=0, medium=0), _ALL, [_turned(_ALL[0]), *_ALL[1:]]),
    RecordCase(
        "the field says what is hard, and a tie teaches nothing",
        CDFPairs(easy=0.5, medium=0, difficulty="level"),
        [talk("e", answers=["a", "b"], better=[(1, 0)], level=-1), replace(_rated("t", 2, 2), tags={"level": 0})],
        [],
        dropped={"easy: cdf learns from it": 1, "hard: no answer is better than another": 1},
    ),
)
