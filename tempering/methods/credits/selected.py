"""Selected: the answers that earn most of their group are demonstrations, and nothing is unlearned from the others.

    A_i = 1 if r_i > above and r_i is the group's best, else 0

With `reinforce` this is fine-tuning on the policy's own best answers, sampled anew for each step: RAFT (Dong et al. 2023, arXiv 2304.06767; the best
of a group), online rejection sampling (`above = 0`, every right answer; DeepSeekMath, arXiv 2402.03300, section 5.2); SuperHF's loss
(`objectives/superhf.py`) takes it too. Of equally good answers the first is taken, unless `ties` says all. What is not taken is no part of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tempering.rollouts.types import Credit, Earned

if TYPE_CHECKING:
    import numpy as np


class Selected(Credit):
    """1 for the best of a group, 0 for the rest."""

    kind: Literal["selected"] = "selected"
    above: float | None = None
    """What an answer must earn more than to be learned from; None takes the best whatever it earns."""
    ties: Literal["first", "all"] = "first"
    """Which of equally good answers are taken."""
    chooses: ClassVar[bool] = True

    def __call__(self, earned: Earned) -> Mapping[str, np.ndarray]:
        import numpy as np

        score_N, groups = earned.score_N, earned.group_N
        best_N = np.zeros(len(score_N))
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group)
            best = mine[score_N[mine] == score_N[mine].max()]
            best_N[best if self.ties == "all" else best[:1]] = 1.0
        if self.above is not None:
            best_N[score_N <= self.above] = 0.0
        return {"advantage": best_N[earned.trajectory_T]}
