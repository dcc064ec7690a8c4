"""Anchored preference optimisation: says which way each answer's likelihood should go, not only their difference.

    zero:  loss = 1 - sigmoid(r_w) + sigmoid(r_l)              chosen up, rejected down: the chosen answers are better than the model's own
    down:  loss = sigmoid(r_w) + 1 - sigmoid(r_w - r_l)        both down, rejected more: the model is better than the chosen answers

with r = beta * (log pi - log pi_ref). D'Oosterlinck et al. 2024, arXiv 2408.06266, equations 7 and 8; beta = 0.1 and lr 2e-7 (section 5.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "2e-7 (section 5.2)"}


@dataclass(frozen=True)
class APO(Paired):
    """Pair loss with an anchor: "zero" or "down"."""

    anchor: Literal["zero", "down"] = "zero"
    """Which of the paper's two losses."""

    def __post_init__(self) -> None:
        if self.anchor not in ("zero", "down"):
            raise UserError(f"anchor is {self.anchor!r}; APO has 'zero' (chosen answers better than the model's) and 'down' (worse)")

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        chosen_S, rejected_S = self.beta * pair.chosen, self.beta * pair.rejected
        if self.anchor == "zero":
            return 1 - F.sigmoid(chosen_S) + F.sigmoid(rejected_S)
        return F.sigmoid(chosen_S) + 1 - F.sigmoid(chosen_S - rejected_S)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


CASES = (
    Case(
        "zero",
        APO(beta=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(1 - _sigmoid(0.25) + _sigmoid(-0.5) + 1 - _sigmoid(-0.2) + _sigmoid(0.4)) / 2,
    ),
    Case(
        "down",
        APO(beta=0.5, anchor="down"),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(_sigmoid(0.25) + 1 - _sigmoid(0.75) + _sigmoid(-0.2) + 1 - _sigmoid(-0.6)) / 2,
    ),
)
