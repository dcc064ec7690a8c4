"""CISPO: the ratio is clipped as a weight, so that no token loses its gradient.

    loss = - sum_t sg( min(r_t, cap) ) A_t log p_t  /  tokens,   sg = without gradient

MiniMax 2025 (MiniMax-M1), arXiv 2506.13585, equation 4, which bounds the weight from above only. The report does not say how far; cap = 5 is what
later studies of scaling take. PPO's clip drops the gradient of rare tokens, which are often those that open a new thought.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, WEIGHTS, PolicyGradient
from tempering.types import Batch, Context

FAMILY = "policy_gradient"


@dataclass(frozen=True)
class CISPO(PolicyGradient):
    """REINFORCE with a bounded importance weight."""

    cap: Annotated[float, Field(gt=0)] = 5.0
    """The largest weight."""

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        ratio_T = (s["logp"] - s["old_logp"]).exp().detach()
        ctx.log(clipped=(ratio_T > self.cap)[batch.weight_T != 0].float())
        return -ratio_T.clamp(max=self.cap) * s["advantage"] * s["logp"]


CASES = (
    Case(
        "weights e^0.1, 1.4 in place of e^0.5, e^-0.5; e^0.3, e^-0.8: every token keeps a gradient",
        CISPO(cap=1.4),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(2 * math.exp(0.1) + 2 * 1.4 * 0.5 + 0.5 * math.exp(-0.5) * 2 - math.exp(0.3) * 0.7 - 0.5 * math.exp(-0.8) * 1.8) / 4.5,
        gradient={
            "rollout/logp": [
                [-2 * math.exp(0.1) / 4.5, -2.8 / 4.5, -0.5 * math.exp(-0.5) / 4.5],
                [math.exp(0.3) / 4.5, 0.5 * math.exp(-0.8) / 4.5, 0],
                [0],
            ]
        },
        logs={**LOGS, "clipped": 0.2},
    ),
)
