"""S2R's process-level credit: each turn by itself, against all turns before which the same had been earned.

    A_k = r_k - b(r_1, ..., r_{k-1}) - mean over the turn of what the divergence costs
    b   = the mean reward of the step's turns with this history, of any task; 0 where there are fewer than `least`

Ma et al. 2025 (S2R), arXiv 2502.12853 (S127). What is to be expected of a check depends on whether the answer before it was right, so a check after a
wrong answer is compared with such checks. The paper takes the baseline over its whole data set, which is sampled before; here that is the round
of sampling (`updates` steps of `batch_size` tasks). `least` is 10 in the released code. Turns without a reward of their own have 0; what the end of
a conversation earns is the last turn's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np

CATALOGUE = ("S127",)


class RewardHistory(Credit):
    """Rewards of turns against the mean of those with the same history."""

    kind: Literal["reward_history"] = "reward_history"
    least: int = Field(default=10, ge=1)
    """Turns that a history must have for a baseline."""

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        import numpy as np

        price_T = np.zeros(len(earned.reward_T)) if earned.price_T is None else earned.price_T
        turn_U, size_U = earned.turns()
        # Rounded, because a turn's sum of tokens leaves what would make two equal histories different.
        reward_U = np.round(np.bincount(turn_U, earned.reward_T + price_T, len(size_U)), 9)
        whose_U = earned.trajectory_T[np.cumsum(size_U) - 1]
        histories, told = [], tuple[float, ...]()
        for u, reward in enumerate(reward_U):
            told = told if u and whose_U[u] == whose_U[u - 1] else ()
            histories.append(told)
            told = (*told, float(reward))
        alike = defaultdict[tuple[float, ...], list[float]](list)
        for history, reward in zip(histories, reward_U, strict=True):
            alike[history].append(float(reward))
        baseline_U = np.array([np.mean(alike[h]) if len(alike[h]) >= self.least else 0.0 for h in histories])
        advantage_U = reward_U - baseline_U - np.bincount(turn_U, price_T, len(size_U)) / size_U
        return {"advantage": advantage_U[turn_U]}
