"""Plain credit: what came after a token, as it is. Williams 1992 (REINFORCE).

    A_t = sum over k >= t of gamma^(k - t) r_k

With `whiten` the advantages of all tokens of the step get mean 0 and deviation 1: REINFORCE++ (Hu et al. 2025, arXiv 2501.03262), whose only baseline
is the step's own mean. Rewards of single tokens (a KL penalty, turns of a conversation) count for what stands before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tempering.methods.credits._returns import backward, whitened
from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np


class Returns(Credit):
    """Discounted sums of what is still to come."""

    kind: Literal["returns"] = "returns"
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What the next token's worth counts for."""
    whiten: bool = False
    """Take the step's mean off and divide by its deviation."""

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        return_T = backward(earned.reward_T, earned.trajectory_T, self.gamma)
        return {"advantage": whitened(return_T) if self.whiten else return_T}
