"""UltraFeedback: several answers rated on several aspects become one pair a prompt.

Cui et al. 2023, arXiv 2310.01377. An answer's score is the mean of its ratings (there: instruction following, truthfulness, honesty, helpfulness);
the best answer is chosen and a strictly worse one is rejected, with the difference of scores as the pair's margin for reward models. The paper trains
UltraRM on all pairs; one pair a prompt with a random worse answer is how its data are mostly used since (Zephyr, arXiv 2310.16944, sec. 3). Sampling
the answers from a pool of models and rating them with a judge are not part of this file: the data come rated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from tempering.cases import RecordCase
from tempering.making import Maker, Making, answer, made, ordered, overall, user
from tempering.types import Record, Response

FAMILY = "comparisons"
CATALOGUE = ("S251",)


class UltraFeedback(Maker):
    """Pairs from ratings by aspect."""

    kind: Literal["ultrafeedback"] = "ultrafeedback"
    aspects: tuple[str, ...] = ()
    """What the score is the mean of; every aspect of the answer by default."""
    rejected: Literal["random", "worst", "all"] = "random"
    """Which worse answer is rejected: any one of them, by seed; the one with the lowest score; or every pair of the prompt (the paper's UltraRM)."""

    held = "made"

    def __call__(self, records: Iterable[Record], making: Making) -> Iterator[Record]:
        """Prompts with fewer than two rated answers, or whose answers all tie, are left out."""
        for record in records:
            scored = [(value, r) for r in record.responses if (value := overall(r, self.aspects)) is not None]
            scores = [value for value, _ in scored]
            pairs = ordered(scores)
            if not pairs:
                making.drop(record, "every answer has the same score" if len(scores) > 1 else "fewer than two rated answers")
                continue
            best = scores.index(max(scores))
            worse = sorted(j for i, j in pairs if i == best)
            if self.rejected == "random":
                pairs = ((best, making.random(record.id).choice(worse)),)
            elif self.rejected == "worst":
                pairs = ((best, min(worse, key=lambda j: scores[j])),)
            for i, j in pairs:
                both = [replace(scored[k][1], score=scores[k]) for k in (i, j)]
                yield made(record, f"pair-{i}-{j}", record.prompt, both, better=((0, 1),))


def _rated(text: str, score: float | None = None, **aspects: float) -> Response:
    return Response(answer(text).messages, score, aspects=aspects)


_A, _B, _C = {"truth": 4.0, "help": 5.0}, {"truth": 2.0, "help": 5.0}, {"truth": 3.0, "help": 1.0}
_THREE = Record((user("Hi"),), (_rated("b", 10.0, **_B), _rated("a", 1.0, **_A), _rated("c", 9.0, **_C)), id="hi")
CASES = (
    RecordCase(
        "the mean of the ratings decides, not the score that the data give: 4.5 against 2",
        UltraFeedback(rejected="worst"),
        [_THREE],
        [Record((user("Hi"),), (_rated("a", 4.5, **_A), _rated("c", 2.0, **_C)), ((0, 1),))],
    ),
    RecordCase(
        "by seed another worse answer is rejected, 3.5",
        UltraFeedback(),
        [_THREE],
        [Record((user("Hi"),), (_rated("a", 4.5, **_A), _rated("b", 3.5, **_B)), ((0, 1),))],
        seed=6,
    ),
    RecordCase(
        "every pair, by one aspect: 3 over 2, 4 over 2, 4 over 3",
        UltraFeedback(aspects=("truth",), rejected="all"),
        [_THREE],
        [
            Record((user("Hi"),), (_rated("a", 4.0, **_A), _rated("b", 2.0, **_B)), ((0, 1),)),
            Record((user("Hi"),), (_rated("a", 4.0, **_A), _rated("c", 3.0, **_C)), ((0, 1),)),
            Record((user("Hi"),), (_rated("c", 3.0, **_C), _rated("b", 2.0, **_B)), ((0, 1),)),
        ],
    ),
    RecordCase(
        "ties are dropped, and what has one rated answer; without aspects the score counts",
        UltraFeedback(),
        [
            Record((user("x"),), (_rated("a", truth=1), _rated("b", 1.0)), id="tie"),
            Record((user("y"),), (_rated("a", truth=1), answer("b")), id="one"),
            Record((user("z"),), (_rated("a", 1.0), _rated("b", 1.5)), id="two"),
        ],
        [Record((user("z"),), (_rated("b", 1.5), _rated("a", 1.0)), ((0, 1),))],
        dropped={"every answer has the same score": 1, "fewer than two rated answers": 1},
    ),
)
