"""RLOO: an answer is one action, weighed by its reward less the mean of the others'.

    loss_i = - min(R_i A_i, clip(R_i) A_i),   R_i = exp(sum_t log p_t - log old_t)

Ahmadian et al. 2024 ("Back to Basics: Revisiting REINFORCE style optimization"), arXiv 2402.14740, equation 6: REINFORCE on the whole answer with a
leave-one-out baseline (`methods/credits/leave_one_out.py`). The paper steps once on each answer; the clipped ratio of whole answers, which lets a
step be repeated, is that of later trainers and changes nothing at the first step. The paper takes the KL from the reward (`--rollouts.kl_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, REFERENCE, REFERENCE_KL, WEIGHTS, Clipped
from tempering.reduce import segment_mean, segment_sum, segment_weight
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
RECIPE = {"credit.kind": "leave_one_out"}


@dataclass(frozen=True)
class RLOO(Clipped):
    """The clipped ratio of whole answers."""

    norm = "segments"
    per = "segment"

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        moved_S = segment_sum(s["logp"] - s["old_logp"], batch)
        return -self.surrogate(moved_S, segment_mean(s["advantage"], batch), segment_weight(batch) != 0, ctx)


CASES = (
    Case(
        "answers moved by 0.1 and, with a weight of a half, by -0.1; an answer's advantage is the mean of its tokens'",
        RLOO(),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-1.5 * math.exp(0.1) + math.exp(-0.1)) / 2,
        gradient={"rollout/logp": [[-1.5 * math.exp(0.1) / 2] * 3, [math.exp(-0.1) / 2, 0.5 * math.exp(-0.1) / 2, 0], [0]]},
        logs={**LOGS, "clipped": 0},
    ),
    Case(
        "both past the clip, and a reference: a mean over the answer's tokens",
        RLOO(clip_low=0.05, clip_high=0.08, kl=2.0),
        REFERENCE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-1.5 * 1.08 + 2 * sum(REFERENCE_KL[0]) / 3 + 0.95 + 2 * (REFERENCE_KL[1][0] + 0.5 * REFERENCE_KL[1][1]) / 1.5) / 2,
        logs={"clipped": 1.0},
    ),
)
