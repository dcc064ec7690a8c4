"""SimNPO: NPO without a reference model, on the answer's mean log-prob, as SimPO is to DPO.

    loss = - (2 / beta) * mean_y log sigmoid( - (beta / |y|) log p(y | x) - gamma )

Fan et al. 2024, arXiv 2410.07163, section 5: NPO's reference decides how hard an answer is pushed, so that what was learned best is pushed least,
and all answers alike at the start. gamma = 0 as there; beta 2.5 and the forget term's weight 0.1375 are those of their published run on TOFU's 5%
(4.5 and 0.125 on its 10%). As beta goes to 0, with gamma = 0, the gradient becomes that of gradient ascent in which every answer counts alike. Their
code and OpenUnlearning subtract a `delta` from the mean before beta is multiplied: that is `gamma = beta * delta`, and both leave it at 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting
from tempering.reduce import segment_mean
from tempering.types import Context, Parts, Signals

FAMILY = "forget"
CONFUSED_WITH = {"npo": "pushes the forget answer away and prefers nothing", "simpo": "learns from pairs"}
PAPER = {"optimizer.lr": "1e-5 for all weights of LLaMA-2 7B on TOFU, 10 epochs (their released configuration)"}


@dataclass(frozen=True)
class SimNPO(Forgetting):
    """Sigmoid loss on each forget answer's mean log-prob, without a reference."""

    beta: Annotated[float, Field(gt=0)] = 2.5
    """How fast an answer that has become unlikely loses weight; towards 0 this is gradient ascent."""
    gamma: Annotated[float, Field(ge=0)] = 0.0
    """How far the answer must fall beyond that before it is left alone."""
    weight: Annotated[float, Field(ge=0)] = 0.1375
    """Weight of the forget term."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_S = segment_mean(signals["forget"]["logp"], parts["forget"])
        ctx.log(forget_logp=logp_S)
        return -2 / self.beta * F.logsigmoid(-self.beta * logp_S - self.gamma)


def _loss(mean: float, beta: float, gamma: float = 0.0) -> float:
    return 2 / beta * math.log1p(math.exp(beta * mean + gamma))


_FORGET = {"logp": [[-1.0, -2.0, -9.0], [-0.5, -0.25]]}
# Means -4/3 (the second token counts half, the third not) and -0.375.

CASES = (
    Case(
        "means over the scored tokens; the likelier answer is pushed harder",
        SimNPO(beta=0.5, retain_loss="none", weight=1.0),
        {"forget": _FORGET},
        weights={"forget": [[1.0, 0.5, 0.0], [1.0, 1.0]]},
        loss=(_loss(-4 / 3, 0.5) + _loss(-0.375, 0.5)) / 2,
        gradient={
            "forget/logp": [
                [2 / (1 + math.exp(2 / 3)) / 1.5 / 2, 1 / (1 + math.exp(2 / 3)) / 1.5 / 2, 0.0],
                [2 / (1 + math.exp(0.1875)) / 2 / 2] * 2,
            ]
        },
        logs={"forget_logp": (-4 / 3 - 0.375) / 2},
    ),
    Case(
        "a margin, and two answers to one prompt that count as two",
        SimNPO(beta=2.0, gamma=0.75, retain_loss="none", weight=1.0),
        {"forget": {"logp": [[-1.0], [-2.0], [-3.0]]}},
        groups={"forget": [0, 0, 1]},
        loss=(_loss(-1, 2, 0.75) + _loss(-2, 2, 0.75) + _loss(-3, 2, 0.75)) / 3,
    ),
    Case(
        "with the paper's weight, and other rows kept likely",
        SimNPO(),
        {"forget": {"logp": [[-1.0, -0.5], [-0.1]]}, "retain": {"logp": [[-1.0, -3.0], [-2.0]]}},
        loss=0.1375 * (_loss(-0.75, 2.5) + _loss(-0.1, 2.5)) / 2 + 2,
    ),
)
