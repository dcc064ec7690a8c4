"""Negative preference optimisation: the forget answers are what DPO would call rejected, and there is nothing chosen.

    loss = - (2 / beta) * mean_y log sigmoid( - beta * [ log p(y | x) - log p_ref(y | x) ] )

Zhang et al. 2024, arXiv 2404.05868, equation 3; beta = 0.1 is the paper's default (section 4). Its gradient is gradient ascent's, weighed by
2 p^beta / (p^beta + p_ref^beta): 1 at the start, falling to 0 as an answer becomes unlikely, so that the model is not torn further. As beta goes to 0
it becomes gradient ascent (proposition 1). "NPO-RT" is `retain_loss="nll"`, "NPO-KL" `retain_loss="kl"`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting, ratio
from tempering.types import Context, Parts, Signals

FAMILY = "forget"
CATALOGUE = ("S082",)
CONFUSED_WITH = {"simnpo": "has no reference and divides by length", "dpo": "has a chosen answer beside the rejected one"}


@dataclass(frozen=True)
class NPO(Forgetting):
    """Sigmoid loss that pushes each forget answer below its reference."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How far below the reference an answer must fall before it is left alone; towards 0 this is gradient ascent."""

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return {"forget": frozenset({"logp", "reference.logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        ratio_S = ratio(parts, signals)
        ctx.log(forget_ratio=ratio_S)
        return -2 / self.beta * F.logsigmoid(-self.beta * ratio_S)


def _loss(ratio: float, beta: float) -> float:
    return 2 / beta * math.log1p(math.exp(beta * ratio))


_FORGET = {"logp": [[-1.0, -2.0, -0.5], [-1.5]], "reference.logp": [[-1.2, -2.6, -9.0], [-1.1]]}
# Log-ratios 0.5 (the second token counts half, the third not) and -0.4.

CASES = (
    Case(
        "one answer that is likelier than at the start and one that is less likely",
        NPO(beta=0.5, retain_loss="none"),
        {"forget": _FORGET},
        weights={"forget": [[1.0, 0.5, 0.0], [1.0]]},
        loss=(_loss(0.5, 0.5) + _loss(-0.4, 0.5)) / 2,
        gradient={
            "forget/logp": [
                [2 / (1 + math.exp(-0.25)) / 2, 1 / (1 + math.exp(-0.25)) / 2, 0.0],
                [2 / (1 + math.exp(0.2)) / 2],
            ]
        },
        logs={"forget_ratio": 0.05},
    ),
    Case(
        "two answers to one prompt count as two",
        NPO(beta=0.5, retain_loss="none"),
        {"forget": {"logp": [[-1.0], [-2.0], [-3.0]], "reference.logp": [[-2.0], [-1.0], [-0.5]]}},
        groups={"forget": [0, 0, 1]},
        loss=(_loss(1.0, 0.5) + _loss(-1.0, 0.5) + _loss(-2.5, 0.5)) / 3,
    ),
    Case(
        "NPO-RT: other rows are kept likely",
        NPO(beta=2.0, weight=0.25, retain_weight=2.0),
        {"forget": _FORGET, "retain": {"logp": [[-1.0, -3.0], [-2.0]]}},
        weights={"forget": [[1.0, 0.5, 0.0], [1.0]], "retain": [[1.0, 0.0], [2.0]]},
        loss=0.25 * (_loss(0.5, 2.0) + _loss(-0.4, 2.0)) / 2 + 2 * (1 + 4) / 3,
    ),
)
