"""Robust DPO: an estimate of the loss on clean labels that stays unbiased when a known share of the pairs is labelled the wrong way round.

    loss = [ -(1 - e) log sigmoid(margin) + e log sigmoid(-margin) ] / (1 - 2 e),   margin as in DPO

Chowdhury et al. 2024, arXiv 2403.00409, equation 12; e = 0.1 in its experiments. The conservative variant (`DPO(label_smoothing=e)`) adds where this
one subtracts, and is biased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Contrast, Pairs, softplus
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-3 (appendix B: GPT-2, LoRA)"}


@dataclass(frozen=True)
class RobustDPO(Contrast):
    """DPO's loss with the expected effect of flipped labels taken out."""

    beta: float = 0.01
    """Appendix B."""
    label_smoothing: float = 0.1
    """Share of pairs labelled the wrong way round, 0 to below 0.5 (paper, section 5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"label_smoothing is {self.label_smoothing}; robust DPO needs a share of flipped labels from 0 to below 0.5")

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        margin_S, flipped = self.margin(pair), self.label_smoothing
        return (-(1 - flipped) * F.logsigmoid(margin_S) + flipped * F.logsigmoid(-margin_S)) / (1 - 2 * flipped)


CASES = (
    Case(
        "a fifth of the labels flipped: the divisor is 0.6, and the second term is taken away",
        RobustDPO(beta=0.5, label_smoothing=0.2),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(0.8 * softplus(-0.75) - 0.2 * softplus(0.75) + 0.8 * softplus(0.6) - 0.2 * softplus(-0.6)) / 0.6 / 2,
    ),
    Case("no flipped labels: DPO", RobustDPO(beta=0.5, label_smoothing=0.0), EXAMPLE, weights=WEIGHTS, loss=(softplus(-0.75) + softplus(0.6)) / 2),
)
