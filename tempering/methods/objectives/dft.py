"""Dynamic fine-tuning: each token's cross-entropy is weighed by the target's own probability, which takes the 1/p out of its gradient.

    loss_t = - sg(p_t) log p_t,   sg: no gradient

Wu et al. 2025, arXiv 2508.05629, equation 9. The gradient is that of - p_t: the expected reward of an exact match, free of importance weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.types import Context, Parts, Signals

FAMILY = "tokens"


@dataclass(frozen=True)
class DFT(NLL):
    """Cross-entropy weighed by the probability that the model gives the target."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals[self.part]["logp"]
        return -logp_T.exp().detach() * logp_T


CASES = (
    Case(
        "p = 1/2 and 1/8, which get a gradient of p",
        DFT(),
        {"train": {"logp": [[math.log(0.5), -5], [math.log(0.125)]]}},
        weights={"train": [[1, 0], [0.5]]},
        loss=(0.5 * math.log(2) + 0.5 * 0.125 * math.log(8)) / 1.5,
        gradient={"train/logp": [[-0.5 / 1.5, 0], [-0.0625 / 1.5]]},
    ),
)
