"""The Bradley-Terry reward model: a number for an answer, such that differences are log-odds of being preferred.

    loss = - y log sigmoid(d) - (1 - y) log sigmoid(-d),   d = r(y_w | x) - r(y_l | x) - margin * m,   y = 1 unless labels are soft

Ouyang et al. 2022, arXiv 2203.02155, equation 1. m is a column "margin" (Touvron et al. 2023, arXiv 2307.09288, equation 2). `centre` adds
centre * (r(y_w | x) + r(y_l | x))^2, which fixes the constant that differences leave open (Eisenstein et al. 2023, arXiv 2312.09244, equation 2; 0.01
there). An answer's reward is read at its last scored token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import SIDES, softplus
from tempering.reduce import last
from tempering.types import Batch, Context, Objective, Parts, Signals

FAMILY = "reward"


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """Log-likelihood of the preferences under a reward model."""

    margin: float = 0.0
    """Weight of a column "margin" of the chosen answers [S], by how much the better one must win; 0 needs no column."""
    centre: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared sum of both rewards."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a pair is labelled the wrong way round."""
    soft: bool = False
    """Take the probability that the chosen answer is the better one from its column "soft" [S]."""
    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        columns = ({"margin"} if self.margin else set()) | ({"soft"} if self.soft else set())
        return {"chosen": frozenset({"reward"} | columns), "rejected": frozenset({"reward"})}

    def reward(self, batch: Batch, signals: Mapping[str, Tensor]) -> Tensor:
        """The answers' rewards [S]."""
        return last(signals["reward"], batch)

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        chosen_S, rejected_S = (self.reward(parts[side], signals[side]) for side in SIDES)
        delta_S = chosen_S - rejected_S
        ctx.log(margin=delta_S, accuracy=(delta_S > 0).float(), chosen_reward=chosen_S, rejected_reward=rejected_S)
        losses_S = self.loss(delta_S, signals["chosen"], ctx)
        return losses_S + self.centre * (chosen_S + rejected_S) ** 2 if self.centre else losses_S

    def loss(self, delta_S: Tensor, columns: Mapping[str, Tensor], ctx: Context) -> Tensor:
        """Losses [S] of the pairs by how much more the chosen answer got [S]."""
        if self.margin:
            delta_S = delta_S - self.margin * columns["margin"]
        # A soft label may itself be flipped.
        label_S = self.label_smoothing + (1 - 2 * self.label_smoothing) * self.label(columns, ctx)
        return -label_S * F.logsigmoid(delta_S) - (1 - label_S) * F.logsigmoid(-delta_S)

    def label(self, columns: Mapping[str, Tensor], ctx: Context) -> Tensor | float:
        """The probability [S] that the chosen answer is the better one."""
        return columns["soft"] if self.soft else 1.0


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Rewards at the last scored tokens: 1.5 and -0.5 against 0.25 and 1.0, so differences of 1.25 and -1.5.
_REWARDS = {"chosen": {"reward": [[9.0, 1.5, 7.0], [-0.5]]}, "rejected": {"reward": [[0.25], [4.0, 1.0]]}}
_WEIGHTS = {"chosen": [[1.0, 0.5, 0.0], [2.0]], "rejected": [[1.0], [1.0, 1.0]]}
_COLUMNS = {"chosen": _REWARDS["chosen"] | {"margin": [0.5, 2.0], "soft": [0.9, 0.3]}, "rejected": _REWARDS["rejected"]}

CASES = (
    Case(
        "one pair in order, one the wrong way round: differences 1.25 and -1.5, read at the last scored token whatever its weight",
        BradleyTerry(),
        _REWARDS,
        weights=_WEIGHTS,
        loss=(softplus(-1.25) + softplus(1.5)) / 2,
        gradient={
            "chosen/reward": [[0.0, -_sigmoid(-1.25) / 2, 0.0], [-_sigmoid(1.5) / 2]],
            "rejected/reward": [[_sigmoid(-1.25) / 2], [0.0, _sigmoid(1.5) / 2]],
        },
        logs={"margin": -0.125, "accuracy": 0.5, "chosen_reward": 0.5, "rejected_reward": 0.625},
    ),
    Case(
        "margins of 1 and 4, rewards held around 0",
        BradleyTerry(margin=2.0, centre=0.1),
        _COLUMNS,
        weights=_WEIGHTS,
        loss=(softplus(1.0 - 1.25) + 0.1 * 1.75**2 + softplus(4.0 + 1.5) + 0.1 * 0.5**2) / 2,
    ),
    Case(
        "labels of 0.9 and 0.3, themselves wrong one time in five: 0.74 and 0.38",
        BradleyTerry(soft=True, label_smoothing=0.2),
        _COLUMNS,
        weights=_WEIGHTS,
        loss=(0.74 * softplus(-1.25) + 0.26 * softplus(1.25) + 0.38 * softplus(1.5) + 0.62 * softplus(-1.5)) / 2,
    ),
    Case(
        "two pairs of one prompt, a tie (no win) and a narrow win, and a pair whose chosen answer is not scored: it does not count",
        BradleyTerry(),
        {"chosen": {"reward": [[2.0], [1.5], [8.0]]}, "rejected": {"reward": [[2.0], [1.0], [-1.0]]}},
        weights={"chosen": [[1], [1], [0]]},
        groups={"chosen": [0, 0, 1], "rejected": [0, 0, 1]},
        loss=(math.log(2) + softplus(-0.5)) / 2,
        logs={"accuracy": 2 / 3, "margin": 0.5},
    ),
)
