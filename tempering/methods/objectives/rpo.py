"""Iterative reasoning preference optimisation: DPO on reasoning with an answer, and a likelihood term that keeps the winners likely.

    loss = DPO(margin) - a * log pi(y_w | x) / |y_w|

Pang et al. 2024, arXiv 2404.19733, equation 1; a = 1, beta = 0.1, lr 7e-7 (section 3). The second term is a mean over each chosen answer's tokens,
then over pairs. Every loss on pairs takes such a term by its field `sft`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, softplus
from tempering.methods.objectives.dpo import DPO
from tempering.types import Norm

FAMILY = "pairs"
PAPER = {"optimizer.lr": "7e-7 (section 3; recalled, not checked)"}
CONFUSED_WITH = {"reward-aware preference optimisation (RPO, arXiv 2406.11704)": "regresses reward differences; it is not here"}


@dataclass(frozen=True)
class RPO(DPO):
    """DPO plus the chosen answers' negative log-likelihood per token."""

    sft: float = 1.0
    sft_norm: Norm = "segment_mean"


CASES = (
    Case(
        "means of the two chosen answers' tokens: 2 / 1.5 and 1.5",
        RPO(beta=0.5, sft=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.75) + softplus(0.6)) / 2 + 0.5 * (2 / 1.5 + 1.5) / 2,
    ),
    Case(
        "without the term it is DPO",
        RPO(beta=0.5, sft=0.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.75) + softplus(0.6)) / 2,
    ),
    Case("a weight of 1 by default", RPO(beta=0.5), EXAMPLE, weights=WEIGHTS, loss=(softplus(-0.75) + softplus(0.6)) / 2 + (2 / 1.5 + 1.5) / 2),
)
