"""Efficient exact optimisation: the reverse KL from the policy's own preference over the two answers to the labelled one.

    loss = KL( [q, 1 - q] || [1 - e, e] ),   q = sigmoid(beta * [ (log pi - log pi_ref)(y_w) - (log pi - log pi_ref)(y_l) ])

Ji et al. 2024, arXiv 2402.00856, equation 16 (EXO-pref with K = 2); e = 1e-3 (appendix). DPO is the forward KL of the same two distributions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Contrast, Pairs
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-6 (appendix B)"}


@dataclass(frozen=True)
class EXO(Contrast):
    """Reverse KL between two distributions over the pair."""

    label_smoothing: float = 1e-3
    """What the label leaves to the rejected answer, above 0 and below 1: the reverse KL is infinite at 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.label_smoothing < 1:
            raise UserError(f"label_smoothing is {self.label_smoothing}; EXO needs a number between 0 and 1, both excluded (the paper takes 0.001)")

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        margin_S = self.margin(pair)
        won_S = F.sigmoid(margin_S) * (F.logsigmoid(margin_S) - math.log1p(-self.label_smoothing))
        return won_S + F.sigmoid(-margin_S) * (F.logsigmoid(-margin_S) - math.log(self.label_smoothing))


def _kl(q: float, p: float) -> float:
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


CASES = (
    Case(
        "a KL of two coins, one pair each way round",
        EXO(beta=0.5, label_smoothing=0.1),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(_kl(1 / (1 + math.exp(-0.75)), 0.9) + _kl(1 / (1 + math.exp(0.6)), 0.9)) / 2,
    ),
)
