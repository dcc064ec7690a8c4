"""DAPO: GRPO for long answers: tokens count alike, the clip is wider upwards, questions that teach nothing are replaced, length is priced softly.

    loss = - 1/sum_i |o_i| sum_i sum_t min(r_t A_i, clip(r_t, 1 - 0.2, 1 + 0.28) A_i)

Yu et al. 2025, arXiv 2503.14476, equations 8 to 13. Its other two parts are the rollouts': groups whose answers all earn the same are left out and
sampled anew (`--rollouts.dynamic`), and an answer that comes within a fifth of the budget of tokens loses up to 1 (`--rollouts.overlong`); by its
name both are on. No reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, WEIGHTS, Clipped

FAMILY = "policy_gradient"
RECIPE = {"rollouts.dynamic": True, "rollouts.overlong": 0.2}


@dataclass(frozen=True)
class DAPO(Clipped):
    """Clipped ratios over all tokens of the step."""

    clip_high: Annotated[float, Field(ge=0)] = 0.28
    norm = "tokens"


CASES = (
    Case(
        "a good token is followed to 1.28, a bad one to 0.8; every token counts the same",
        DAPO(),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-(2 * math.exp(0.1) + 2 * 1.28 + 0.5 * math.exp(-0.5)) + math.exp(0.3) + 0.5 * 0.8) / 4.5,
        logs={**LOGS, "clipped": 0.4},
    ),
)
