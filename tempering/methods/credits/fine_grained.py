"""RLTF's credit: an answer against the greedy answer to the same question, and what was said of single tokens for these alone.

    A_t = R(sampled) - R(greedy) + r_t

Liu et al. 2023 (RLTF), arXiv 2307.04349: R is the answer's coarse or adaptive reward and counts for all its tokens; r_t, the fine-grained feedback,
for the tokens that it names (`Environment.along`; the reward `rltf` names the line that an error tells of). How the paper scales r_t against R is
not known for certain. Where nothing is said of tokens this is `greedy_baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np

CATALOGUE = ("S050",)


class FineGrained(Credit):
    """Rewards less that of the greedy answer, and each token's own."""

    kind: Literal["fine_grained"] = "fine_grained"
    asks: ClassVar[frozenset[str]] = frozenset({"greedy"})

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        import numpy as np

        assert earned.greedy_N is not None
        along_T = np.zeros(len(earned.reward_T)) if earned.along_T is None else earned.along_T
        coarse_N = earned.score_N - np.bincount(earned.trajectory_T, along_T, len(earned.group_N))
        return {"advantage": (coarse_N - earned.greedy_N)[earned.trajectory_T] + along_T}
