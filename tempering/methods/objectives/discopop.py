"""The discovered loss of DiscoPOP: logistic where the margin is against the label, exponential where it agrees, blended by the margin itself.

    loss = (1 - k) * (- log sigmoid(m)) + k * exp(-m),   k = sigmoid(m / tau),   m = beta * [ (log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l) ]

Lu et al. 2024, arXiv 2406.08414, equation 5 ("log-ratio modulated loss", found by a language model); tau = 0.05, beta = 0.05.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Contrast, Pairs, softplus
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-7 (appendix B.1)"}


@dataclass(frozen=True)
class DiscoPOP(Contrast):
    """Blend of a logistic and an exponential loss."""

    beta: float = 0.05
    tau: float = 0.05
    """How sharply the blend changes from one to the other around a margin of 0."""

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        margin_S = self.margin(pair)
        blend_S = F.sigmoid(margin_S / self.tau)
        return -F.logsigmoid(margin_S) * (1 - blend_S) + torch.exp(-margin_S) * blend_S


CASES = (
    Case(
        "margins 0.75 and -0.6 at a temperature of 0.5",
        DiscoPOP(beta=0.5, tau=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(
            (softplus(-0.75) * math.exp(-1.5) + math.exp(-0.75)) / (1 + math.exp(-1.5))
            + (softplus(0.6) + math.exp(0.6) * math.exp(-1.2)) / (1 + math.exp(-1.2))
        )
        / 2,
    ),
)
