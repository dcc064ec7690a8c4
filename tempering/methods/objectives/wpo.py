"""Weighted preference optimisation: pairs that the policy would hardly write itself count for less, which makes off-policy pairs look on-policy.

    loss = w(y_w) w(y_l) * DPO(margin),   w(y) = exp( (1/|y|) sum_t [ log p_t - log sum_v p_v^2 ] ), without gradient

Zhou et al. 2024, arXiv 2406.11827, equations 2 and 3 (weights aligned by what sampling gives on average). beta = 0.01 for its best runs; 0.1 here.
Every loss on pairs takes this by its field `weighting`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, softplus
from tempering.methods.objectives.dpo import DPO

FAMILY = "pairs"
PAPER = {"optimizer.lr": "1e-6 (section 4.1; recalled, not checked)"}


@dataclass(frozen=True)
class WPO(DPO):
    """DPO with each pair weighed by the policy's likelihood of it."""

    weighting: bool = True


CASES = (
    Case(
        "log-ratios by token: (0.5 + 0.5 * -0.5) / 1.5 and -0.5 for chosen, -1 and (0.3 + 0.1) / 2 for rejected",
        WPO(beta=0.5),
        {
            "chosen": EXAMPLE["chosen"] | {"logsumexp2": [[-1.5, -1.5, -0.1], [-1.0]]},
            "rejected": EXAMPLE["rejected"] | {"logsumexp2": [[-1.0], [-1.0, -0.7]]},
        },
        weights=WEIGHTS,
        loss=(math.exp(1 / 6 - 1) * softplus(-0.75) + math.exp(-0.5 + 0.2) * softplus(0.6)) / 2,
        gradient={
            "chosen/logp": [
                [-0.25 * math.exp(1 / 6 - 1) / (1 + math.exp(0.75)) * w for w in (1, 0.5, 0)],
                [-0.25 * math.exp(-0.3) / (1 + math.exp(-0.6))],
            ]
        },
    ),
)
