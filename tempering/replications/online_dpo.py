"""DPO on pairs that are sampled anew now and then beats DPO on as many pairs that were all sampled at the start.

Dong et al. 2024 (RLHF Workflow, arXiv 2405.07863) draw several responses to new prompts, pair the best with the worst, take DPO's steps on these, and
go on with the policy that comes of it, for three iterations; online iterative DPO is reported to do better than its offline counterpart. Here the
policy is one that was shown two ways to answer a sum (`_reinforced.py`), a sum's reward says which answer is right, and both arms take as many steps
on as many pairs (8 answers to each of 8 sums a step): the baseline on answers of the start model alone, the method in four rounds. The reference is
the start model for both. The paper's rewards are learned, and a learned one is not tried here. Of the rates 2e-4 (four rounds) and 3e-4 (eight) the
first was better for both on seed 100, which is none of the seeds that count and on which the method was behind.
"""

from __future__ import annotations

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.online_dpo import OnlineDPO
from tempering.proof.claims import Claim, Scale
from tempering.replications._reinforced import acted, begun, right
from tempering.rollouts.settings import Rollouts

CLAIM = Claim(
    method="online_dpo",
    catalogue=("S191",),
    title="Online iterative DPO against offline DPO on as many pairs",
    claim="After as many steps on as many pairs, more held-out sums are right when the pairs are sampled in four rounds than all at the start.",
    baseline="DPO on pairs of the start model's answers",
    metric="held-out accuracy",
    smallest_effect=0.03,
)
LR, STEPS, ROUNDS = 2e-4, 32, 4


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out sums whose likeliest answer is right; and before."""
    start, steps = begun(seed, scale), scale(STEPS)
    each = steps // ROUNDS if arm == "method" else steps
    tuned = acted(start, OnlineDPO(), LeaveOneOut(), steps=steps, seed=seed, lr=LR, settings=Rollouts(updates=each))
    return {"held-out accuracy": right(tuned, scale), "start": right(start, scale)}
