"""MetaRM: a reward model that keeps telling answers of the shifted policy apart, by a step towards that before each step on the preferences.

    J(theta) = (2 / k^2) sum_{i<j} sigmoid( |r_i - r_j| )   over k answers to a prompt, unlabelled, by the policy as it is now
    theta' = theta + rate * grad J(theta),   theta <- theta - lr * grad BT(theta')

Dou et al. 2024, arXiv 2405.00438, and Wang et al. 2024, arXiv 2401.06080 (S217), section 3.2. This objective is J, and what `fit` takes a step ahead
by; the recipe `meta_rm` does the rest. The gradient at theta' is taken as it is, without differentiating through the inner step: that first order was
meant is assumed, and the size of `rate` is not known from the papers. Where all answers score the same, J has no slope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import group_sum, last, segment_weight
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "ahead"
CATALOGUE = ("S217",)


@dataclass(frozen=True)
class MetaRM(Objective):
    """How far apart the rewards of a prompt's answers are, from (k - 1) / 2k where all are equal to (k - 1) / k."""

    rate: Annotated[float, Field(ge=0)] = 1e-3
    """Size of the step ahead, in units of J's gradient; 0 is the plain loss."""
    norm = "groups"
    part = "responses"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"responses": frozenset({"reward"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch = parts["responses"]
        reward_S, scored_S = last(signals["responses"]["reward"], batch), segment_weight(batch) != 0
        among_SS = (batch.group_S[:, None] == batch.group_S[None]) & scored_S[:, None] & scored_S[None]
        apart_SS = torch.sigmoid((reward_S[:, None] - reward_S[None]).abs())
        # Every pair stands here twice, once from either side.
        ahead_S = torch.where(among_SS.fill_diagonal_(False), apart_SS, 0.0).sum(1) / group_sum(scored_S.to(reward_S), batch).clamp(min=1) ** 2
        ctx.log(spread=group_sum(ahead_S, batch))
        return ahead_S


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _slope(x: float) -> float:
    return _sigmoid(x) * _sigmoid(-x)


CASES = (
    Case(
        "three answers, 1.5, -0.5 and 0, read at the last scored token; two of another prompt that lie among them; one that is not scored",
        MetaRM(),
        {"responses": {"reward": [[9, 1.5, 7], [2], [-0.5], [-1, 0], [2.25], [5]]}},
        weights={"responses": [[1, 0.5, 0], [1], [2], [1, 1], [1], [0]]},
        groups={"responses": [0, 1, 0, 0, 1, 1]},
        loss=(2 / 9 * (_sigmoid(2) + _sigmoid(1.5) + _sigmoid(0.5)) + 2 / 4 * _sigmoid(0.25)) / 2,
        gradient={
            "responses/reward": [
                [0, (_slope(2) + _slope(1.5)) / 9, 0],
                [-_slope(0.25) / 4],
                [-(_slope(2) + _slope(0.5)) / 9],
                [0, (_slope(0.5) - _slope(1.5)) / 9],
                [_slope(0.25) / 4],
                [0],
            ]
        },
        logs={"spread": (3 * 2 / 9 * (_sigmoid(2) + _sigmoid(1.5) + _sigmoid(0.5)) + 3 * 2 / 4 * _sigmoid(0.25)) / 6},
    ),
    Case("all equal: (k - 1) / 2k", MetaRM(), {"responses": {"reward": [[0.5], [0.5], [0.5], [0.5]]}}, groups={"responses": [2] * 4}, loss=3 / 8),
    Case("nothing scored", MetaRM(), {"responses": {"reward": [[0.5], [1.5]]}}, weights={"responses": [[0], [0]]}, loss=0.0),
)
EQUIVALENT = {"__call__:constant:3": "a prompt with one scored answer has no pair to divide"}
