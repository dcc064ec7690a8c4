"""ReMax's credit: an answer against the greedy answer to the same question.

    A = r(sampled) - r(greedy)

Li et al. 2024 (ReMax), arXiv 2310.10505, algorithm 1. It costs one more answer for each question, and needs no second sample and no critic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np


class GreedyBaseline(Credit):
    """Rewards less that of the greedy answer."""

    kind: Literal["greedy_baseline"] = "greedy_baseline"
    asks: ClassVar[frozenset[str]] = frozenset({"greedy"})

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        assert earned.greedy_N is not None
        return {"advantage": (earned.score_N - earned.greedy_N)[earned.trajectory_T]}
