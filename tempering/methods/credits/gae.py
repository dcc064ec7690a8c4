"""Generalised advantage estimation: a critic says what was to be expected, and its errors are summed with decay.

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t     = sum over k >= t of (gamma lambda)^(k - t) delta_k        R_t = A_t + V_t

Schulman et al. 2016, arXiv 1506.02438, equation 16; behind the last token V is 0. Returns R are what the critic learns; they are taken before the
advantages are whitened over the step (mean 0, deviation 1), as PPO implementations do. gamma 1 and lambda 0.95 are usual for language models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tempering.methods.credits._returns import backward, following, whitened
from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np


class GAE(Credit):
    """Errors of a critic, summed with decay."""

    kind: Literal["gae"] = "gae"
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What the next token's worth counts for."""
    lambda_: Annotated[float, Field(ge=0, le=1)] = 0.95
    """0 trusts the critic for all that follows, 1 trusts what was earned."""
    whiten: bool = True
    """Take the step's mean off the advantages and divide by their deviation."""
    asks: ClassVar[frozenset[str]] = frozenset({"value"})

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        value_T = earned.value_T
        assert value_T is not None
        error_T = earned.reward_T + self.gamma * following(value_T, earned.trajectory_T) - value_T
        advantage_T = backward(error_T, earned.trajectory_T, self.gamma * self.lambda_)
        return {"advantage": whitened(advantage_T) if self.whiten else advantage_T, "return": advantage_T + value_T, "old_value": value_T}
