"""A preference model that reads both answers: how likely the first is preferred to the second, P(y > y' | x), whatever cycles there are.

    P(y > y') = sigmoid( (r(y, y') - r(y', y)) / 2 ),   loss = - log P(y_w > y_l)

Munos et al. 2023, arXiv 2312.00886 (NLHF; S051), section 3.1; Jiang et al. 2023, arXiv 2306.02561 (PairRanker). r reads the prompt and both answers
in one sequence (`data.duel_row`) and is taken at the last token. Unlike a Bradley-Terry reward, P may prefer a to b, b to c and c to a. The
difference of both orders makes P(y > y') = 1 - P(y' > y) exactly; `symmetric=False` learns each order by itself, which may be what the paper does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import SIDES, softplus
from tempering.reduce import last
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "duels"
CATALOGUE = ("S051",)


@dataclass(frozen=True)
class PairPreference(Objective):
    """Log-likelihood of the preferences; "chosen" has the better answer first, "rejected" the same two in the other order."""

    symmetric: bool = True
    """Make one probability of both orders; False: each order is an example."""
    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return dict.fromkeys(SIDES, frozenset({"reward"}))

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        first_S, second_S = (last(signals[side]["reward"], parts[side]) for side in SIDES)
        delta_S = (first_S - second_S) / 2
        ctx.log(margin=delta_S, accuracy=(delta_S > 0).float(), place=(first_S + second_S) / 2)
        return -F.logsigmoid(delta_S) if self.symmetric else -(F.logsigmoid(first_S) + F.logsigmoid(-second_S)) / 2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Better answer first: 1.5, -0.5, 1 and none; second: 0.25, 1, 1 and 2. Differences by half: 0.625, -0.75, 0 and -1, which is not scored.
_ORDERS = {"chosen": {"reward": [[9.0, 1.5, 7.0], [-0.5], [1.0], [5.0]]}, "rejected": {"reward": [[0.25], [4.0, 1.0], [1.0], [2.0]]}}
_WEIGHTS = {"chosen": [[1.0, 0.5, 0.0], [2.0], [1.0], [0.0]], "rejected": [[1.0], [1.0, 1.0], [1.0], [1.0]]}
_GROUPS = {"chosen": [0, 0, 1, 2], "rejected": [0, 0, 1, 2]}

CASES = (
    Case(
        "both orders as one, one pair the wrong way round and one undecided",
        PairPreference(),
        _ORDERS,
        weights=_WEIGHTS,
        groups=_GROUPS,
        loss=(softplus(-0.625) + softplus(0.75) + math.log(2)) / 3,
        gradient={
            "chosen/reward": [[0, -_sigmoid(-0.625) / 6, 0], [-_sigmoid(0.75) / 6], [-1 / 12], [0]],
            "rejected/reward": [[_sigmoid(-0.625) / 6], [0, _sigmoid(0.75) / 6], [1 / 12], [0]],
        },
        logs={"margin": -1.125 / 4, "accuracy": 1 / 4, "place": (0.875 + 0.25 + 1 + 1) / 4},
    ),
    Case(
        "each order by itself",
        PairPreference(symmetric=False),
        _ORDERS,
        weights=_WEIGHTS,
        groups=_GROUPS,
        loss=(softplus(-1.5) + softplus(0.25) + softplus(0.5) + softplus(1.0) + softplus(-1.0) + softplus(1.0)) / 6,
    ),
)
