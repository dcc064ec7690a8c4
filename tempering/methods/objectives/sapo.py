"""SAPO: a soft gate in the place of PPO's clip; a token's gradient fades as its ratio leaves 1, and never stops at once.

    loss = - 4 / tau sigmoid( tau (r_t - 1) ) A_t,   tau = 1 where A > 0, 1.05 else

Gao et al. 2025, "Soft Adaptive Policy Optimization", arXiv 2511.20347, equations 5 to 7 (recalled, not checked against the text). At r = 1 the
gradient is that of the ratio itself. Averaged like GRPO: over an answer's tokens, then over answers. Credit: group relative.
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
from tempering.types import Batch, Context

FAMILY = "policy_gradient"


@dataclass(frozen=True)
class SAPO(PolicyGradient):
    """A sigmoid of the ratio."""

    tau_good: Annotated[float, Field(gt=0)] = 1.0
    """How sharply the gate closes where the advantage is positive."""
    tau_bad: Annotated[float, Field(gt=0)] = 1.05
    """And elsewhere."""
    norm = "segment_mean"

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        tau_T = torch.where(s["advantage"] > 0, self.tau_good, self.tau_bad)
        ratio_T = (s["logp"] - s["old_logp"]).exp()
        return -4 / tau_T * torch.sigmoid(tau_T * (ratio_T - 1)) * s["advantage"]


def _gate(x: float, tau: float) -> float:
    return 4 / tau / (1 + math.exp(-tau * (math.exp(x) - 1)))


CASES = (
    Case(
        "another sharpness for what was good and for what was bad",
        SAPO(tau_good=2.0, tau_bad=3.0),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(-(2 * _gate(0.1, 2) + 2 * _gate(0.5, 2) + 0.5 * _gate(-0.5, 2)) / 3 + (_gate(0.3, 3) + 0.5 * _gate(-0.8, 3)) / 1.5) / 2,
        logs=LOGS,
    ),
)
