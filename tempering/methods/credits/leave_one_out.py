"""Leave-one-out credit: an answer against the mean of the other answers to the same question.

    A_i = r_i - mean of r_j over j != i  =  k / (k - 1) (r_i - mean(r))

Kool et al. 2019; Ahmadian et al. 2024 (RLOO, "Back to Basics"), arXiv 2402.14740, equation 6. The baseline does not depend on the answer it is
taken from, so the policy gradient stays unbiased (a test enumerates it). An answer that is alone in its group gets its reward as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from tempering.methods.credits._groups import size, total
from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np


class LeaveOneOut(Credit):
    """Rewards against the mean of the others of their group."""

    kind: Literal["leave_one_out"] = "leave_one_out"

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        import numpy as np

        score_N = earned.score_N
        others_N = np.maximum(size(earned) - 1, 1)
        return {"advantage": (score_N - (total(score_N, earned) - score_N) / others_N)[earned.trajectory_T]}
