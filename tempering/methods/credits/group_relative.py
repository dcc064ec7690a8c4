"""Group-relative credit: how much better an answer is than the others to the same question.

    A_i = (r_i - mean(r)) / (std(r) + epsilon)

over the answers of one group; every token of an answer gets its A. Shao et al. 2024 (DeepSeekMath, GRPO), arXiv 2402.03300, section 4.1.2. The
deviation divides by one less than the group's size, as the trainers in use do; epsilon 1e-4 is theirs. `scale = "none"` is Dr. GRPO (Liu et al.
2025, arXiv 2503.20783), which leaves the division out, since it favours questions that are nearly always or nearly never answered; `scale = "batch"`
divides by the deviation of all rewards of the step. A group of equal rewards, or of one answer, gets 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.methods.credits._groups import size, total
from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np


class GroupRelative(Credit):
    """Rewards against the mean of their group, over its deviation."""

    kind: Literal["group_relative"] = "group_relative"
    scale: Literal["group", "batch", "none"] = "group"
    """Whose deviation is divided by."""
    epsilon: float = Field(default=1e-4, gt=0)
    """Added to the deviation."""

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        import numpy as np

        score_N, size_N = earned.score_N, size(earned)
        above_N = score_N - total(score_N, earned) / size_N
        # Equal rewards leave rounding, which must not be blown up to an advantage.
        above_N = np.where(np.abs(above_N) > 1e-9 * np.abs(score_N).max(initial=1.0), above_N, 0.0)
        if self.scale == "group":
            above_N = above_N / (np.sqrt(total(above_N**2, earned) / np.maximum(size_N - 1, 1)) + self.epsilon)
        elif self.scale == "batch":
            above_N = above_N / (score_N.std(ddof=1 if len(score_N) > 1 else 0) + self.epsilon)
        return {"advantage": above_N[earned.trajectory_T]}
