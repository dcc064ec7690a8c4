"""Sums from the end of each trajectory, and whitening."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def backward(x_T: np.ndarray, trajectory_T: np.ndarray, decay: float) -> np.ndarray:
    """sum over k >= t of decay^(k - t) x_k within each trajectory [T]."""
    import numpy as np

    sum_T, carried = np.array(x_T, np.float64), 0.0
    for t in range(len(sum_T) - 1, -1, -1):
        carried = carried if t + 1 < len(sum_T) and trajectory_T[t + 1] == trajectory_T[t] else 0.0
        carried = sum_T[t] = sum_T[t] + decay * carried
    return sum_T


def following(x_T: np.ndarray, trajectory_T: np.ndarray) -> np.ndarray:
    """The next token's number, 0 behind a trajectory's last [T]."""
    import numpy as np

    next_T = np.append(x_T[1:], 0.0)
    return np.where(np.append(trajectory_T[1:] == trajectory_T[:-1], False), next_T, 0.0)


def whitened(x_T: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over all tokens; 0 where all are alike."""
    above_T = x_T - x_T.mean()
    return above_T / (x_T.std() + 1e-8)
