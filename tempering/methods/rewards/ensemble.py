"""An ensemble of rewards: several reward models that err apart are harder to fool than one.

    mean:        avg_i R_i
    worst:       min_i R_i
    uncertainty: avg_i R_i - penalty * avg_i (R_i - avg_i R_i)^2

Coste et al. 2023, arXiv 2310.02743, section 3.2 (mean, worst-case and uncertainty-weighted optimisation); penalty = 0.5 for best-of-n, 0.1 for PPO
(appendix). The variance divides by the number of members, so that one member is itself under every rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from tempering.errors import UserError
from tempering.types import Prompt, Reward

if TYPE_CHECKING:
    import numpy as np

CATALOGUE = ("S207",)
How = Literal["mean", "worst", "uncertainty"]


@dataclass(frozen=True)
class Ensemble:
    """One reward made of several.

    Raises:
        UserError: no members, an unknown rule, or a negative penalty.
    """

    members: tuple[Reward, ...]
    how: How = "worst"
    penalty: float = 0.5
    """What a unit of variance between the members costs under "uncertainty"; 0 is the mean."""

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("ensemble: members is empty; give at least one reward")
        if self.how not in get_args(How):
            raise UserError(f"ensemble: how is {self.how!r}; it is one of {', '.join(get_args(How))}")
        if self.penalty < 0:
            raise UserError(f"ensemble: penalty is {self.penalty}; it costs what members disagree on, so it is 0 or more")

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """float64 [N]."""
        return self.combine(self.scores(prompts, answers))

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """What each member gives, [members, N]."""
        import numpy as np

        return np.stack([np.asarray(member(prompts, answers), dtype=np.float64) for member in self.members])

    def combine(self, score_MN: np.ndarray) -> np.ndarray:
        """The members' scores [members, N] as one [N]."""
        if self.how == "worst":
            return score_MN.min(0)
        return score_MN.mean(0) - (self.penalty * score_MN.var(0) if self.how == "uncertainty" else 0.0)
