"""Direct preference optimisation: the policy's implicit reward of the chosen answer over the rejected one, relative to a frozen reference.

    loss = - log sigmoid( beta * [ (log pi - log pi_ref)(y_w | x) - (log pi - log pi_ref)(y_l | x) ] )

Rafailov et al. 2023, arXiv 2305.18290, equation 7; beta = 0.1 is the paper's default (appendix B). Log-probs are sums over the answer's tokens.
`label_smoothing` is the conservative variant (Mitchell 2023): the pair is taken as flipped with that probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Contrast, Pairs, softplus
from tempering.types import Context

FAMILY = "pairs"


@dataclass(frozen=True)
class DPO(Contrast):
    """Sigmoid loss on the margin between chosen and rejected."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a pair is labelled the wrong way round; 0 is the paper's loss."""

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        margin_S = self.margin(pair)
        return -(1 - self.label_smoothing) * F.logsigmoid(margin_S) - self.label_smoothing * F.logsigmoid(-margin_S)


CASES = (
    Case(
        "one pair in order, one the wrong way round; weights count, in log-probs and in the reference",
        DPO(beta=0.5),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(softplus(-0.5 * 1.5) + softplus(0.5 * 1.2)) / 2,
        gradient={
            "chosen/logp": [
                [-0.5 / (1 + math.exp(0.75)) / 2, -0.25 / (1 + math.exp(0.75)) / 2, 0.0],
                [-0.5 / (1 + math.exp(-0.6)) / 2],
            ],
            "rejected/logp": [[0.5 / (1 + math.exp(0.75)) / 2], [0.5 / (1 + math.exp(-0.6)) / 2] * 2],
        },
        logs={
            "margin": 0.5 * (1.5 - 1.2) / 2,
            "accuracy": 0.5,
            "chosen_logp": (-2.0 - 1.5) / 2,
            "rejected_logp": (-2.0 - 1.3) / 2,
            "chosen_reward": 0.5 * (0.5 - 0.4) / 2,
            "rejected_reward": 0.5 * (-1.0 + 0.8) / 2,
        },
    ),
    Case(
        "a fifth of the labels taken as flipped",
        DPO(beta=2.0, label_smoothing=0.2),
        EXAMPLE,
        weights=WEIGHTS,
        loss=(0.8 * softplus(-3.0) + 0.2 * softplus(3.0) + 0.8 * softplus(2.4) + 0.2 * softplus(-2.4)) / 2,
    ),
    Case(
        "two pairs of one prompt in the wrong order, margins -0.5 and -3.25, and one whose chosen answer is not scored",
        DPO(beta=0.5, label_smoothing=0.2),
        {
            "chosen": {"logp": [[-1, -2, -4], [-0.5, -3], [-7]], "reference.logp": [[-9, -1, -2], [-2, -1], [-8]]},
            "rejected": {"logp": [[-3], [-1, -1.5], [-2]], "reference.logp": [[-2], [-3, -3.5], [-5]]},
        },
        weights={"chosen": [[0, 1, 0.5], [1, 2], [0]]},
        groups={"chosen": [0, 0, 1], "rejected": [0, 0, 1]},
        loss=sum(0.8 * softplus(-m) + 0.2 * softplus(m) for m in (-0.5, -3.25)) / 2,
        logs={"margin": (-0.5 - 3.25 - 1.5) / 3, "accuracy": 0, "chosen_reward": 0.5 * (-2 - 2.5) / 3, "rejected_reward": 0.5 * (-1 + 4 + 3) / 3},
    ),
)
