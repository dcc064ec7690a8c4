"""GSPO: GRPO with one ratio for the whole answer, the geometric mean of its tokens' ratios.

    loss_i = - min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i),   s_i = (p(o_i) / old(o_i))^(1 / |o_i|)

Zheng et al. 2025, arXiv 2507.18071, equations 5 to 7; low = 3e-4 and high = 4e-4 (section 5.1), small because a mean of log-ratios moves little.
What is rewarded is the answer, so what is clipped is the answer. Credit: group relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, WEIGHTS, Clipped
from tempering.reduce import segment_mean, segment_weight
from tempering.types import Batch, Context

FAMILY = "policy_gradient"


@dataclass(frozen=True)
class GSPO(Clipped):
    """The clipped mean ratio of answers."""

    clip_low: Annotated[float, Field(ge=0, lt=1)] = 3e-4
    clip_high: Annotated[float, Field(ge=0)] = 4e-4
    norm = "segments"
    per = "segment"

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        moved_S = segment_mean(s["logp"] - s["old_logp"], batch)
        return -self.surrogate(moved_S, segment_mean(s["advantage"], batch), segment_weight(batch) != 0, ctx)


CASES = (
    Case(
        "means of log-ratios 0.1 / 3 and -0.1 / 1.5: the first is followed, the second is past its clip",
        GSPO(clip_low=0.05, clip_high=0.05),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-1.5 * math.exp(0.1 / 3) + 0.95) / 2,
        gradient={"rollout/logp": [[-1.5 * math.exp(0.1 / 3) / 6] * 3, [0, 0, 0], [0]]},
        logs={"clipped": 0.5},
    ),
    Case(
        "the other way round: a token counts by its weight",
        GSPO(clip_low=0.08, clip_high=0.02),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-1.5 * 1.02 + math.exp(-0.1 / 1.5)) / 2,
        logs={"clipped": 0.5},
    ),
    Case(
        "the paper's clip holds both",
        GSPO(),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-1.5 * 1.0004 + 0.9997) / 2,
        logs={"clipped": 1.0},
    ),
)
