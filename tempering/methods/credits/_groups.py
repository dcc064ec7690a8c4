"""Sums over the trajectories of a group. Groups are numbered anyhow, lie in any order and may differ in size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tempering.rollouts.types import Earned

if TYPE_CHECKING:
    import numpy as np


def total(x_N: np.ndarray, earned: Earned) -> np.ndarray:
    """Each trajectory's group's sum [N]."""
    import numpy as np

    groups, index_N = np.unique(earned.group_N, return_inverse=True)
    return np.bincount(index_N, x_N, len(groups))[index_N]


def size(earned: Earned) -> np.ndarray:
    """How many trajectories each one's group has [N]."""
    return total(earned.score_N * 0 + 1, earned)
