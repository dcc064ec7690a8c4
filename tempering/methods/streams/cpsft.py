"""CPSFT: learn to answer with the scores that stand before the prompt, such as <helpfulness:5><honesty:1>.

The first stage of controllable preference optimisation (Guo et al. 2024, arXiv 2402.19085): every rated answer is imitated after a prefix with its
own scores, so that bad answers teach what a low score means. The second stage is `cdpo`. The prefix is plain text, not new tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from tempering.cases import RecordCase
from tempering.making import Maker, Making, answer, asking, made, user
from tempering.methods.streams._controls import condition, prefix
from tempering.types import Record, Response

FAMILY = "lessons"
CATALOGUE = ("S247",)


class CPSFT(Maker):
    """One demonstration for each rated answer, with its scores before the prompt."""

    kind: Literal["cpsft"] = "cpsft"
    control: tuple[str, ...] = ()
    """Aspects that are written before the prompt; all that an answer is rated on by default."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Answers without any of the aspects are left out."""
        for record in records:
            rated = [(i, response, wanted) for i, response in enumerate(record.responses) if (wanted := condition(response, self.control))]
            if not rated:
                making.drop(record, "no answer is rated on these aspects")
            for i, response, wanted in rated:
                yield made(record, f"score-{i}", asking(record, before=prefix(wanted)), [response])


def _rated(text: str, **aspects: float) -> Response:
    return Response(answer(text).messages, aspects=aspects)


_PAIR = Record((user("Hi"),), (_rated("Hello.", help=5, honest=2.5), _rated("No.", help=1, honest=4)), id="hi")
CASES = (
    RecordCase(
        "each answer comes after its own scores",
        CPSFT(),
        [_PAIR],
        [
            Record((user("<help:5><honest:2.5>\nHi"),), _PAIR.responses[:1]),
            Record((user("<help:1><honest:4>\nHi"),), _PAIR.responses[1:]),
        ],
    ),
    RecordCase(
        "one aspect is controlled; an answer without it is left out, and a record without any is counted",
        CPSFT(control=("honest",)),
        [Record((user("Hi"),), (*_PAIR.responses, _rated("Yes.", help=3)), id="a"), Record((user("Ho"),), (_rated("Yes.", help=3),), id="b")],
        [Record((user("<honest:2.5>\nHi"),), _PAIR.responses[:1]), Record((user("<honest:4>\nHi"),), _PAIR.responses[1:])],
        dropped={"no answer is rated on these aspects": 1},
    ),
)
