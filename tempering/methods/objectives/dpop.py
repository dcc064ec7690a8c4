"""DPO-positive (Smaug): DPO with a penalty wherever the chosen answer has become less likely than it was.

    loss = - log sigmoid( beta * [ (log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l) - lambda * max(0, log pi_ref/pi (y_w)) ] )

Pal et al. 2024, arXiv 2402.13228, equation 3; lambda = 50, beta = 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Pairs, softplus
from tempering.methods.objectives.dpo import DPO
from tempering.types import Parts, Signals

FAMILY = "pairs"
PAPER = {"optimizer.lr": "2e-5 (appendix; recalled, not checked)"}


@dataclass(frozen=True)
class DPOP(DPO):
    """Sigmoid loss whose margin pays for a chosen answer that lost likelihood."""

    beta: float = 0.3
    penalty: float = 50.0
    """The paper's lambda; 0 is DPO."""

    def pairs(self, parts: Parts, signals: Signals) -> Pairs:
        """Pairs with their offsets."""
        pair = super().pairs(parts, signals)
        return replace(pair, offset=self.beta * self.penalty * F.relu(-pair.chosen))


CASES = (
    Case(
        "the second chosen answer fell by 0.4",
        DPOP(beta=0.5, penalty=3.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.75) + softplus(0.5 * (1.2 + 3 * 0.4))) / 2,
    ),
)
