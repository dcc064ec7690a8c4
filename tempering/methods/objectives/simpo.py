"""Simple preference optimisation: the chosen answer's log-prob per token above the rejected one's by a target margin, without a reference.

    loss = - log sigmoid( beta * [ mean_t log pi(y_w) - mean_t log pi(y_l) ] - gamma ),   gamma = beta * gamma_beta_ratio

Meng et al. 2024, arXiv 2405.14734, equation 6; beta = 2.0 and gamma / beta = 0.5 where the paper starts its search (section 3, appendix B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import Paired, Pairs, softplus
from tempering.reduce import segment_mean
from tempering.types import Batch, Context

FAMILY = "pairs"


@dataclass(frozen=True)
class SimPO(Paired):
    """Sigmoid loss on the margin of length-normalised log-probs, less a target margin."""

    beta: Annotated[float, Field(gt=0)] = 2.0
    """Scale of the difference of mean log-probs."""
    gamma_beta_ratio: Annotated[float, Field(ge=0)] = 0.5
    """Target margin in units of beta: the mean log-probs must differ by this much."""
    reference_free: bool = True

    def total(self, x_T: Tensor, batch: Batch) -> Tensor:
        """Log-probs are means by token."""
        return segment_mean(x_T, batch)

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        return -F.logsigmoid(self.beta * (pair.chosen - pair.rejected - self.gamma_beta_ratio))


CASES = (
    # Means: -0.5 and -1.0 against -1.5 and -0.25, so the margins are 2 * 1.0 and 2 * -0.75; the target margin is 2 * 0.25.
    Case(
        "two pairs of unequal lengths, the second in the wrong order, and a token of weight 0 that must not count",
        SimPO(beta=2.0, gamma_beta_ratio=0.25),
        {"chosen": {"logp": [[9.0, -0.2, -0.8], [-1.0]]}, "rejected": {"logp": [[-1.5], [-0.1, -0.4, 9.0]]}},
        weights={"chosen": [[0, 1, 1], [1]], "rejected": [[1], [1, 1, 0]]},
        loss=(softplus(-(2.0 - 0.5)) + softplus(-(-1.5 - 0.5))) / 2,
        gradient={"chosen/logp": [[0.0, *[-0.5 / (1 + math.exp(1.5))] * 2], [-1 / (1 + math.exp(-2.0))]]},
        logs={"margin": 0.25, "accuracy": 0.5},
    ),
    # beta and the ratio apart: 0.5 * (-1 - -3) = 1 less 0.5 * 3 = 1.5.
    Case(
        "weights that are no ones, and a margin short of its target",
        SimPO(beta=0.5, gamma_beta_ratio=3.0),
        {"chosen": {"logp": [[-0.5, -2.0]]}, "rejected": {"logp": [[-3.0]]}},
        weights={"chosen": [[2, 1]], "rejected": [[1]]},
        loss=softplus(0.5),
        logs={"margin": 1.0, "accuracy": 1.0},
    ),
    # The rejected answer without scored tokens has a mean of 0: margins 2 * (-0.5 - -1) and 2 * (-0.25 - 0).
    Case(
        "two pairs of one prompt are two pairs, and one counts though nothing of its rejected answer is scored",
        SimPO(beta=2.0, gamma_beta_ratio=0.0),
        {"chosen": {"logp": [[-0.5], [-0.25]]}, "rejected": {"logp": [[-1.0], [-3.0]]}},
        weights={"rejected": [[1], [0]]},
        groups={"chosen": [0, 0], "rejected": [0, 0]},
        loss=(softplus(-1.0) + softplus(0.5)) / 2,
    ),
)
