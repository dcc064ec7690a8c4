"""GRPO: PPO's clipped step on advantages taken within a group of answers, without a critic.

    loss = - 1/G sum_i 1/|o_i| sum_t min(r_t A_i, clip(r_t, 1 - eps, 1 + eps) A_i) + beta k3(reference / policy)

Shao et al. 2024 (DeepSeekMath), arXiv 2402.03300, equations 3 and 4; eps = 0.2; beta (`kl`) is 0.04 in the paper and 0 here, as in most later work.
Each answer counts alike, whatever its length: the mean over its tokens comes first. A_i: `methods/credits/group_relative.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, REFERENCE, REFERENCE_KL, WEIGHTS, Clipped

FAMILY = "policy_gradient"


@dataclass(frozen=True)
class GRPO(Clipped):
    """Clipped ratios, averaged over an answer's tokens and then over answers."""

    norm = "segment_mean"


_FIRST = -(2 * math.exp(0.1) + 2 * 1.2 + 0.5 * math.exp(-0.5))
CASES = (
    Case(
        "a good token past 1.2 and a bad one below 0.8 get no gradient; a bad one past 1.2 and a good one below 0.8 keep theirs",
        GRPO(),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(_FIRST / 3 + (math.exp(0.3) + 0.5 * 0.8) / 1.5) / 2,
        gradient={"rollout/logp": [[-math.exp(0.1) / 3, 0, -0.5 * math.exp(-0.5) / 6], [math.exp(0.3) / 3, 0, 0], [0]]},
        logs={**LOGS, "clipped": 0.4},
    ),
    Case(
        "held to a reference, which counts for each token as it does",
        GRPO(kl=0.04),
        REFERENCE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(
            (_FIRST + 0.04 * sum(REFERENCE_KL[0])) / 3 + (math.exp(0.3) + 0.04 * REFERENCE_KL[1][0] + 0.5 * (0.8 + 0.04 * REFERENCE_KL[1][1])) / 1.5
        )
        / 2,
        logs={"kl": (sum(REFERENCE_KL[0]) + sum(REFERENCE_KL[1])) / 5},
    ),
    Case(
        "a wider clip upwards, a narrower one downwards",
        GRPO(clip_low=0.1, clip_high=0.7),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-(2 * math.exp(0.1) + 2 * math.exp(0.5) + 0.5 * math.exp(-0.5)) / 3 + (math.exp(0.3) + 0.5 * 0.9) / 1.5) / 2,
        logs={"clipped": 0.2},
    ),
)
