"""CDPO: which of two answers is better depends on the scores that were asked for.

The second stage of controllable preference optimisation (Guo et al. 2024, arXiv 2402.19085). Under a condition c an answer is worth

    R = sum over aspects i of w_i g_i,   g_i = -lambda |P_i - p_i| where c asks for P_i, and p_i (the rating) where it does not,

and the one worth more is preferred; ties give no pair. The condition is the scores of one of the prompt's own answers, each distinct one in turn, and
stands before the prompt. With no aspect controlled this is DPO on the summed ratings. Of each condition the widest pair is trained. Not the CPO of
machine translation (contrastive preference optimisation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from tempering.cases import RecordCase
from tempering.making import Maker, Making, answer, asking, made, ordered, user
from tempering.methods.streams._controls import condition, prefix, worth
from tempering.types import Record, Response

FAMILY = "comparisons"
CATALOGUE = ("S247",)


class CDPO(Maker):
    """One pair for each condition that an answer of the prompt meets."""

    kind: Literal["cdpo"] = "cdpo"
    control: tuple[str, ...] | None = None
    """Aspects whose scores are asked for: all that are rated by default; an empty list asks for none."""
    weights: dict[str, float] = Field(default_factory=dict)
    """w by aspect; 1 where nothing is said (the released data script)."""
    strength: Annotated[float, Field(gt=0)] = 1.0
    """lambda: what a point of distance from the wanted score costs (the released data script: 1)."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Records with fewer than two rated answers, and conditions under which no answer is better, are left out."""
        for record in records:
            rated = [response for response in record.responses if response.aspects]
            wanted = [condition(r, self.control or ()) if self.control != () else {} for r in rated]
            some = False
            for i, asked in enumerate(wanted):
                values = [worth(response, asked, self.weights, self.strength) for response in rated]
                better = ordered(values)
                if asked in wanted[:i] or not better:
                    continue
                some = True
                scored = [replace(response, score=value) for response, value in zip(rated, values, strict=True)]
                yield made(record, f"want-{i}", asking(record, before=prefix(asked)), scored, better=better)
            if not some:
                making.drop(record, "no answer is better than another" if len(rated) > 1 else "fewer than two rated answers")


def _rated(text: str, score: float | None = None, **aspects: float) -> Response:
    return Response(answer(text).messages, score, aspects=aspects)


_A, _B = {"help": 5.0, "safe": 1.0}, {"help": 2.0, "safe": 4.0}
_PAIR = Record((user("Hi"),), (_rated("a", **_A), _rated("b", **_B)), id="hi")
CASES = (
    RecordCase(
        "nothing is controlled: ordinary pairs by summed ratings, 6 and 6 tie, 6 and 7 do not",
        CDPO(control=()),
        [_PAIR, Record((user("Ho"),), (_rated("a", **_A), _rated("c", help=3, safe=4)), id="ho")],
        [Record((user("Ho"),), (_rated("a", 6.0, **_A), _rated("c", 7.0, help=3, safe=4)), ((1, 0),))],
        dropped={"no answer is better than another": 1},
    ),
    RecordCase(
        "each answer is best under its own scores: 0 against -(3 + 3), and the other way round",
        CDPO(),
        [_PAIR],
        [
            Record((user("<help:5><safe:1>\nHi"),), (_rated("a", 0.0, **_A), _rated("b", -6.0, **_B)), ((0, 1),)),
            Record((user("<help:2><safe:4>\nHi"),), (_rated("a", -6.0, **_A), _rated("b", 0.0, **_B)), ((1, 0),)),
        ],
    ),
    RecordCase(
        "what is not controlled counts as it was rated; weights and strength: a = -0.5 * 2 * 0 + 3 * 1, b = -0.5 * 2 * 3 + 3 * 4",
        CDPO(control=("help",), weights={"help": 2.0, "safe": 3.0}, strength=0.5),
        [_PAIR],
        [
            Record((user("<help:5>\nHi"),), (_rated("a", 3.0, **_A), _rated("b", 9.0, **_B)), ((1, 0),)),
            Record((user("<help:2>\nHi"),), (_rated("a", 0.0, **_A), _rated("b", 12.0, **_B)), ((1, 0),)),
        ],
    ),
    RecordCase(
        "two answers with the same ratings ask for the same, and one rated answer compares with nothing",
        CDPO(),
        [
            Record((user("Hi"),), (_rated("a", help=2), _rated("b", help=2)), id="x"),
            Record((user("Hi"),), (_rated("a", help=2), answer("b")), id="y"),
        ],
        [],
        dropped={"no answer is better than another": 1, "fewer than two rated answers": 1},
    ),
)
