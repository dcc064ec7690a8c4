"""Focal loss: tokens that the model is already sure of count less, so that learning goes into the hard ones.

    loss_t = - (1 - p_t)^gamma log p_t,   p_t = p(y_t | y_<t)

Lin et al. 2017, arXiv 1708.02002, equation 4; gamma = 2 works best there (table 1b). Their class weights alpha have no counterpart here: a token's
weight is the batch's. The factor carries gradient, unlike the one of DFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.types import Context, Parts, Signals

FAMILY = "tokens"


@dataclass(frozen=True)
class Focal(NLL):
    """Cross-entropy times (1 - p)^gamma."""

    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How fast sure tokens lose weight; 0 is plain cross-entropy."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals[self.part]["logp"]
        # The power of 0 has no slope for gamma < 1, so a p of 1 is kept just off it.
        return -((-torch.expm1(logp_T)).clamp(min=1e-16) ** self.gamma) * logp_T


_HALF, _TENTH = math.log(0.5), math.log(0.1)


def _slope(p: float, gamma: float) -> float:
    """d loss / d log p."""
    return -((1 - p) ** gamma) + gamma * p * (1 - p) ** (gamma - 1) * math.log(p)


CASES = (
    Case(
        "p = 0.5 counts for a quarter, p = 0.1 for 0.81, p = 1 for nothing",
        Focal(),
        {"train": {"logp": [[-3, _HALF, _TENTH], [0, _HALF]]}},
        weights={"train": [[0, 1, 0.5], [2, 1]]},
        loss=-(0.25 * _HALF * 2 + 0.5 * 0.81 * _TENTH) / 4.5,
        gradient={"train/logp": [[0, _slope(0.5, 2) / 4.5, 0.5 * _slope(0.1, 2) / 4.5], [0, _slope(0.5, 2) / 4.5]]},
    ),
    Case(
        "a root, whose slope at p = 1 is finite",
        Focal(gamma=0.5),
        {"train": {"logp": [[_HALF, 0], [_TENTH]]}},
        loss=-(0.5**0.5 * _HALF + 0.9**0.5 * _TENTH) / 3,
        gradient={"train/logp": [[_slope(0.5, 0.5) / 3, 0], [_slope(0.1, 0.5) / 3]]},
    ),
)
