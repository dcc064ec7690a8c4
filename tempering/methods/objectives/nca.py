"""Noise contrastive alignment: each answer's reward is pushed to its own side of zero, so the chosen answer's likelihood cannot fall with the margin.

    loss = - log sigmoid(r_w) - 1/2 log sigmoid(-r_w) - 1/2 log sigmoid(-r_l),   r = beta * (log pi - log pi_ref)

Chen et al. 2024, arXiv 2402.05369, equation 13 for two answers with a sure preference; beta = 0.01 (appendix C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs, softplus
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-6 (appendix C)"}


@dataclass(frozen=True)
class NCA(Paired):
    """Contrast of each answer with the reference instead of with each other."""

    beta: float = 0.01

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        chosen_S, rejected_S = self.beta * pair.chosen, self.beta * pair.rejected
        return -F.logsigmoid(chosen_S) - 0.5 * F.logsigmoid(-chosen_S) - 0.5 * F.logsigmoid(-rejected_S)


CASES = (
    Case(
        "rewards 0.25, -0.2 and -0.5, 0.4",
        NCA(beta=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.25) + 0.5 * softplus(0.25) + 0.5 * softplus(-0.5) + softplus(0.2) + 0.5 * softplus(-0.2) + 0.5 * softplus(0.4)) / 2,
        logs={"chosen_reward": 0.025, "rejected_reward": -0.05},
    ),
)
