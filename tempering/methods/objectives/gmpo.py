"""GMPO: GRPO with the geometric mean of an answer's clipped ratios, which a single token cannot blow up.

    loss_i = - A_i exp( 1/|o_i| sum_t m_t ),   m_t = min(log r_t, high) where A > 0, max(log r_t, -low) where A < 0

Zhao et al. 2025, "Geometric-Mean Policy Optimization", arXiv 2507.20673, equation 4; low = high = 0.4, so ratios from e^-0.4 to e^0.4 (section 3.2).
The clip is GRPO's, on one side, taken token by token before the mean. Credit: group relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, WEIGHTS, PolicyGradient
from tempering.reduce import segment_mean
from tempering.types import Batch, Context

FAMILY = "policy_gradient"


@dataclass(frozen=True)
class GMPO(PolicyGradient):
    """The geometric mean of clipped ratios."""

    log_low: Annotated[float, Field(ge=0)] = 0.4
    """How far below 0 a token's log-ratio is followed where the advantage is negative."""
    log_high: Annotated[float, Field(ge=0)] = 0.4
    """How far above 0 it is followed where the advantage is positive."""
    norm = "segments"
    per = "segment"

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        moved_T = s["logp"] - s["old_logp"]
        held_T = torch.where(s["advantage"] > 0, moved_T.clamp(max=self.log_high), moved_T.clamp(min=-self.log_low))
        ctx.log(clipped=(held_T != moved_T)[batch.weight_T != 0].float())
        return -segment_mean(s["advantage"], batch) * segment_mean(held_T, batch).exp()


CASES = (
    Case(
        "a good answer's 0.5 is held to 0.2, a bad one's -0.8 to -0.3; -0.5 and 0.3, on the other side, are followed",
        GMPO(log_low=0.3, log_high=0.2),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-1.5 * math.exp((0.1 + 0.2 - 0.5) / 3) + math.exp((0.3 - 0.5 * 0.3) / 1.5)) / 2,
        gradient={"rollout/logp": [[-1.5 * math.exp(-0.2 / 3) / 6, 0, -1.5 * math.exp(-0.2 / 3) / 6], [math.exp(0.1) / 1.5 / 2, 0, 0], [0]]},
        logs={**LOGS, "clipped": 0.4},
    ),
)
