"""PPO: the clipped step on advantages of a critic, which is trained beside the policy.

    loss = - min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t) + c / 2 max( (V - R)^2, (V_old + clip(V - V_old, +-v) - R)^2 )

Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9, without the entropy bonus; the clip of the value is that of the authors' code. Used on
language models by Ouyang et al. 2022 (arXiv 2203.02155), with the KL from the start model taken from the reward (`--rollouts.kl_cost`). A_t and R_t:
`methods/credits/gae.py`. The critic is a copy of the policy's start with a head for one number, a role with an optimizer of its own.
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
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, PART, WEIGHTS, Clipped
from tempering.types import Batch, Context

FAMILY = "policy_gradient"
RECIPE = {"credit.kind": "gae", "rollouts.epochs": 2, "rollouts.kl_cost": 0.02}


@dataclass(frozen=True)
class PPO(Clipped):
    """Clipped ratios, and a critic's clipped squared error."""

    value: Annotated[float, Field(gt=0)] = 0.5
    """What the critic's loss counts for: it has weights of its own, so this matters for the clipping of gradients only."""
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    """How far the critic is followed from what it said when the answer was sampled."""
    norm = "tokens"

    @property
    def reads(self) -> frozenset[str]:
        return super().reads | {"critic.value", "old_value", "return"}

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        moved_T = (s["critic.value"] - s["old_value"]).clamp(-self.value_clip, self.value_clip)
        free_T, held_T = (s["critic.value"] - s["return"]) ** 2, (s["old_value"] + moved_T - s["return"]) ** 2
        ctx.log(value_error=free_T[batch.weight_T != 0])
        return super().losses(s, batch, ctx) + 0.5 * self.value * torch.maximum(free_T, held_T)


_POLICY = -(2 * math.exp(0.1) + 2 * 1.2 + 0.5 * math.exp(-0.5)) + math.exp(0.3) + 0.5 * 0.8
_VALUES = {
    "critic.value": [[0.3, 0.9, -0.4], [0.5, 0.1, 7.0], [2.0]],
    "old_value": [[0.2, 0.3, -0.1], [0.9, 0.1, 5.0], [1.0]],
    "return": [[1.0, 1.0, 0.0], [0.0, 0.4, 1.0], [1.0]],
}
CASES = (
    Case(
        "values that went towards the return faster than 0.2 are held back, one that went away from it is not",
        PPO(value=0.8),
        {PART: {**EXAMPLE[PART], **_VALUES}},
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(_POLICY + 0.4 * (0.7**2 + 0.5**2 + 0.4**2 + 0.7**2 + 0.5 * 0.3**2)) / 4.5,
        gradient={"rollout/critic.value": [[-0.8 * 0.7 / 4.5, 0, -0.8 * 0.4 / 4.5], [0, -0.4 * 0.3 / 4.5, 0], [0]]},
        logs={**LOGS, "clipped": 0.4, "value_error": (0.7**2 + 0.1**2 + 0.4**2 + 0.5**2 + 0.3**2) / 5},
    ),
)
