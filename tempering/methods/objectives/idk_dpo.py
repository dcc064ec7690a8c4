"""DPO with a refusal as the chosen answer and the forget answer as the rejected one.

    loss = - (scale / beta) * mean log sigmoid( beta * [ log p/p_ref (refusal | x) - log p/p_ref (answer | x) ] )

The "DPO" that NPO is compared with (Zhang et al. 2024, S082, arXiv 2404.05868, equation 2, with scale 1; beta = 0.1), and RWKU's (S075). Unlike
refusal tuning it also makes the answer less likely. OpenUnlearning's `DPO` has scale 2, as NPO has: where the refusal has not moved, that is NPO
exactly. `altpo` is the same with another answer of the model's in the refusal's place.
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
CATALOGUE = ("S082", "S075")
CONFUSED_WITH = {
    "dpo": "has a chosen answer beside the rejected one",
    "npo": "pushes the forget answer away and prefers nothing",
    "idk": "imitates refusals and pushes nothing away",
}


@dataclass(frozen=True)
class IdkDPO(Forgetting):
    """Sigmoid loss that prefers a refusal to each forget answer."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Over beta it is the loss's scale."""
    instead = "refused"

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        return dict.fromkeys(("forget", self.instead), frozenset({"logp", "reference.logp"}))

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        instead_S, forget_S = ratio(parts, signals, self.instead), ratio(parts, signals, "forget")
        margin_S = self.beta * (instead_S - forget_S)
        ctx.log(margin=margin_S, forget_ratio=forget_S)
        return -self.scale / self.beta * F.logsigmoid(margin_S)


def _loss(margin: float, beta: float, scale: float = 1.0) -> float:
    return scale / beta * math.log1p(math.exp(-beta * margin))


_FORGET = {"logp": [[-1.0, -2.0, -0.5], [-1.5]], "reference.logp": [[-1.2, -2.6, -9.0], [-1.1]]}
_REFUSED = {"logp": [[-3.0], [-2.0, -1.0]], "reference.logp": [[-4.0], [-2.5, -0.2]]}
# Log-ratios of answers 0.5 (the second token counts half, the third not) and -0.4, of refusals 1 and -0.3.

CASES = (
    Case(
        "one pair in order, and one only just",
        IdkDPO(beta=0.5, retain_loss="none"),
        {"forget": _FORGET, "refused": _REFUSED},
        weights={"forget": [[1.0, 0.5, 0.0], [1.0]]},
        loss=(_loss(0.5, 0.5) + _loss(0.1, 0.5)) / 2,
        gradient={
            "forget/logp": [[0.5 / (1 + math.exp(0.25)), 0.25 / (1 + math.exp(0.25)), 0.0], [0.5 / (1 + math.exp(0.05))]],
            "refused/logp": [[-0.5 / (1 + math.exp(0.25))], [-0.5 / (1 + math.exp(0.05))] * 2],
        },
        logs={"margin": 0.5 * (0.5 + 0.1) / 2, "forget_ratio": 0.05},
    ),
    Case(
        "OpenUnlearning's scale, two answers to one prompt, and other rows kept likely",
        IdkDPO(beta=2.0, scale=2.0, weight=0.25, retain_weight=3.0),
        {
            "forget": {"logp": [[-1.0], [-2.0], [-3.0]], "reference.logp": [[-2.0], [-1.0], [-0.5]]},
            "refused": {"logp": [[-1.0], [-1.0], [-1.0]], "reference.logp": [[-1.5], [-0.5], [-4.0]]},
            "retain": {"logp": [[-1.0, -3.0], [-2.0]]},
        },
        groups={"forget": [0, 0, 1], "refused": [0, 0, 1]},
        loss=0.25 * (_loss(-0.5, 2, 2) + _loss(0.5, 2, 2) + _loss(5.5, 2, 2)) / 3 + 3 * 2,
    ),
)
