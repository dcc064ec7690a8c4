"""Dr. GRPO: GRPO without its two biases, the division by an answer's length and by its group's deviation.

    loss = - 1/G sum_i 1/L sum_t min(r_t A_i, clip(r_t) A_i),   A_i = R_i - mean(R),   L one constant

Liu et al. 2025 ("Understanding R1-Zero-like training"), arXiv 2503.20783, section 3.1. Dividing by each answer's own length pays a wrong answer for
being long; a constant does not. L is the budget of tokens of an answer, which the recipe fills in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._policy_gradient import EXAMPLE, GROUPS, LOGS, REFERENCE, REFERENCE_KL, WEIGHTS, Clipped
from tempering.types import Context, Parts, Signals

FAMILY = "policy_gradient"
RECIPE = {"credit.scale": "none"}


@dataclass(frozen=True)
class DrGRPO(Clipped):
    """Clipped ratios, summed over an answer's tokens and divided by a constant."""

    budget: Annotated[int, Field(ge=1)] = 1
    """Tokens that an answer may have; the recipe takes its own limit."""
    norm = "segments"

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return super().__call__(parts, signals, ctx) / self.budget


_FIRST = -(2 * math.exp(0.1) + 2 * 1.2 + 0.5 * math.exp(-0.5))
CASES = (
    Case(
        "a long answer counts for more than a short one",
        DrGRPO(budget=4),
        EXAMPLE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(_FIRST + math.exp(0.3) + 0.5 * 0.8) / 4 / 2,
        logs={**LOGS, "clipped": 0.4},
    ),
    Case(
        "the reference counts by the same measure",
        DrGRPO(budget=2, kl=0.5),
        REFERENCE,
        weights=WEIGHTS,
        groups=GROUPS,
        loss=(_FIRST + math.exp(0.3) + 0.4 + 0.5 * (sum(REFERENCE_KL[0]) + REFERENCE_KL[1][0] + 0.5 * REFERENCE_KL[1][1])) / 2 / 2,
    ),
)
