"""DPO on log-probs per token: an answer's score is divided by its length, so long answers do not win by being long.

    loss = - log sigmoid( beta * [ (log pi/pi_ref)(y_w) / |y_w| - (log pi/pi_ref)(y_l) / |y_l| ] )

Lambert et al. 2024 (Tulu 3), arXiv 2411.15124, equation 6; beta = 5 and lr 5e-7 (table 20). TRL calls it "sigmoid_norm".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, softplus
from tempering.methods.objectives.dpo import DPO

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-7 (table 20; recalled, not checked)"}


@dataclass(frozen=True)
class LNDPO(DPO):
    """DPO with scores divided by length."""

    beta: float = 5.0
    average: bool = True


def _js(ratio: float) -> float:
    return math.log(2 / (1 + math.exp(-ratio)))


CASES = (
    Case(
        "differences 4/3 and -0.8 of means",
        LNDPO(beta=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.5 * 4 / 3) + softplus(0.4)) / 2,
        logs={"margin": 0.5 * 0.15},
    ),
    Case(
        "an answer without scored tokens has the score 0",
        LNDPO(beta=1.0),
        EXAMPLE,
        weights={"chosen": [[1.0, 0.5, 0.0], [1.0]], "rejected": [[0.0], [1.0, 1.0]]},
        loss=(softplus(-1 / 3) + softplus(0.8)) / 2,
    ),
    Case("the paper's beta", LNDPO(), EXAMPLE, weights=WEIGHTS, loss=(softplus(-5 * 4 / 3) + softplus(4.0)) / 2),
    Case(
        "under another divergence the score is what is divided",
        LNDPO(beta=1.0, divergence="forward_kl"),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus((1 - math.exp(1.0)) - (1 - math.exp(-0.5)) / 1.5) + softplus((1 - math.exp(-0.8)) / 2 - (1 - math.exp(0.4)))) / 2,
    ),
    Case(
        "and Jensen-Shannon",
        LNDPO(beta=1.0, divergence="js_divergence"),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(_js(-1.0) - _js(0.5) / 1.5) + softplus(_js(0.8) / 2 - _js(-0.4))) / 2,
    ),
)
