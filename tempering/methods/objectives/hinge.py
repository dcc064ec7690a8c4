"""Hinge loss on a pair's margin: nothing is asked of a pair whose margin is already 1.

    loss = max(0, 1 - beta * [ (log pi - log pi_ref)(y_w) - (log pi - log pi_ref)(y_l) ])

Liu et al. 2023 (RSO), arXiv 2309.06657, equation 10 ("hinge-norm", SLiC's loss on the reward that DPO implies); their gamma is our beta.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Contrast, Pairs
from tempering.types import Context

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-6 (DPO's; not in the paper's terms, which trains T5 with Adafactor)"}


@dataclass(frozen=True)
class Hinge(Contrast):
    """max(0, 1 - margin)."""

    beta: float = 0.05
    """Inverse of the margin at which the loss ends (paper, section 4.2: gamma)."""

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        return F.relu(1 - self.margin(pair))


CASES = (
    Case(
        "the first pair is past the margin and asks for nothing",
        Hinge(beta=1.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(0.0 + 1 + 1.2) / 2,
        gradient={"chosen/logp": [[0.0, 0.0, 0.0], [-0.5]], "rejected/logp": [[0.0], [0.5, 0.5]]},
        logs={"margin": 0.15, "chosen_reward": 0.05},
    ),
    Case("both pairs are inside", Hinge(beta=0.5), EXAMPLE, weights=WEIGHTS, loss=(0.25 + 1.6) / 2),
)
