"""Reward models by regression: each output is a rating of its own, such as helpfulness or length, and a direction says later what they count for.

    loss = sum_k w_k (r_k(x, y) - t_k)^2 / K

Directional preference alignment, Wang et al. 2024, arXiv 2402.18571, section 3: its reward model is fitted by squared error, and a user's preference
is a unit vector v with reward v . r(x, y) (`methods/rewards/reward_model.py`). Ratings are columns of the answers by name; an answer that lacks one
says nan there and is not asked for it. The optimum is the conditional mean of the ratings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.reduce import last
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "reward"
CATALOGUE = ("S237",)


@dataclass(frozen=True)
class RewardRegression(Objective):
    """Squared error of a reward model's outputs.

    Raises:
        UserError: no attributes, or not a weight for each.
    """

    attributes: tuple[str, ...] = ("score",)
    """Columns [S] of the answers, in the order of the model's outputs."""
    weights: tuple[float, ...] = ()
    """What each attribute counts for; 1 each by default. A scale in the data is a weight here: 1 / 100^2 takes ratings of 0 to 100 to 0 to 1."""
    part: str = "train"
    norm = "segments"
    per = "segment"

    def __post_init__(self) -> None:
        if not self.attributes or len(self.weights) not in (0, len(self.attributes)):
            raise UserError(f"reward_regression: {len(self.weights)} weights for {len(self.attributes)} attributes; give one for each, or none")

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"rewards", *self.attributes})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        found = signals[self.part]
        reward_SK = last(found["rewards"], parts[self.part])
        target_SK = torch.stack([found[name] for name in self.attributes], -1)
        known_SK = ~target_SK.isnan()
        # Zero before the square, so that what is not known gives no gradient (nan times 0 is nan).
        error_SK = torch.where(known_SK, reward_SK - target_SK.nan_to_num(), 0.0)
        ctx.log(absolute_error=error_SK[known_SK].abs())
        weight_K = error_SK.new_tensor(self.weights or [1.0] * len(self.attributes))
        return (error_SK**2 * weight_K).sum(-1) / len(self.attributes)


_OUTPUTS = {"rewards": [[[9.0, 9.0], [1.0, 2.0]], [[0.5, -1.0]], [[3.0, 3.0], [5.0, 5.0]]]}
_TARGETS = {"helpful": [0.0, 1.0, 9.0], "short": [2.5, -4.0, 9.0]}
_WEIGHTS = {"train": [[1.0, 0.5], [1.0], [0.0, 0.0]]}

CASES = (
    Case(
        "two attributes, errors (1, -0.5) and (-0.5, 3), and an answer without scored tokens",
        RewardRegression(("helpful", "short")),
        {"train": _OUTPUTS | _TARGETS},
        weights=_WEIGHTS,
        loss=((1 + 0.25) / 2 + (0.25 + 9) / 2) / 2,
        gradient={"train/rewards": [[[0, 0], [0.5, -0.25]], [[-0.25, 1.5]], [[0, 0], [0, 0]]]},
    ),
    Case(
        "weights by attribute, and ratings that are missing",
        RewardRegression(("helpful", "short"), weights=(3.0, 0.5)),
        {"train": {"rewards": [[[1.0, 2.0]], [[0.5, -1.0]]], "helpful": [0.0, math.nan], "short": [2.5, -4.0]}},
        loss=((3 * 1 + 0.5 * 0.25) / 2 + 0.5 * 9 / 2) / 2,
        groups={"train": [0, 0]},
        logs={"absolute_error": (1 + 0.5 + 3) / 3},
    ),
    Case("one output", RewardRegression(part="responses"), {"responses": {"rewards": [[[2.0]], [[-1.0]]], "score": [0.5, 1.0]}}, loss=(2.25 + 4) / 2),
)
