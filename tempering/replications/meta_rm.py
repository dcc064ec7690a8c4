"""A reward model that takes a step towards telling the policy's answers apart before each step judges the shifted policy better.

Wang et al. 2024 (arXiv 2401.06080, part II, MetaRM) train on preferences at weights that stand one step up in how far apart the rewards of the
policy's own unlabelled answers are, and find that the model stays right about a policy that has moved away. Here both arms train a new model for as
many steps on the same labelled pairs, a quarter of them wrong (see `_shifted.py` for the policy); the method has four answers of the policy to each
prompt besides. The size of the step ahead is not known from the paper: 1 did better than 0.01 on seed 100, which is none of the seeds that count. The
contrastive term of the same paper, without the step, stands beside.
"""

from __future__ import annotations

from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.contrastive_reward import ContrastiveReward
from tempering.methods.objectives.meta_rm import MetaRM
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows
from tempering.replications._shifted import accuracy, judge, shifted, with_answers

CLAIM = Claim(
    method="meta_rm",
    catalogue=("S217",),
    title="MetaRM against Bradley-Terry, judged on the answers of a policy that moved",
    claim="After as many steps, a reward model with a step ahead on the policy's answers orders more pairs of them as the gold reward does.",
    baseline="Bradley-Terry on the same labelled pairs",
    metric="pair accuracy",
    smallest_effect=0.03,
)
RATE = 1.0


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of pairs of the policy's answers in the gold order."""
    shift, steps = shifted(seed, scale.quick), scale(40)
    rows = pair_rows(shift.policy, shift.records)
    if arm == "baseline":
        return {"pair accuracy": accuracy(judge(rows, BradleyTerry(), seed, steps), shift.held), "moved": shift.moved, "pairs": len(shift.held)}
    model = judge(with_answers(shift.policy, rows, 4, seed + 3), BradleyTerry(), seed, steps, ahead=(RATE, MetaRM()))
    beside = judge(rows, ContrastiveReward(views=1), seed, steps)
    return {"pair accuracy": accuracy(model, shift.held), "pair accuracy with the contrast": accuracy(beside, shift.held)}
