"""A reward model trained anew on what the policy writes now judges that better.

Lang et al. 2024 (arXiv 2403.19279) train the reward model again after the policy has learned by it: on the labelled pairs, on pairs made of the
policy's answers (those in the largest cluster of eight over those outside), and so that its features of two answers to a prompt agree. It is then
more often right about the policy's answers than the fixed one. Here both arms train a new model for as many steps (see `_shifted.py` for the policy
and the pairs); the baseline on the labelled pairs alone, a quarter of which are wrong. Words of two replies are linked from a Jaccard index of 0.25,
since replies of one style share few words. What the synthetic pairs do without the views stands beside.
"""

from __future__ import annotations

from tempering.making import Making
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.mib import MIB
from tempering.methods.streams.spg import SPG
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows
from tempering.replications._shifted import accuracy, judge, shifted, with_answers
from tempering.replications._written import asked

CLAIM = Claim(
    method="mib",
    catalogue=("S148",),
    title="Reward learning on policy against the same pairs alone, judged on the policy's own answers",
    claim="After as many steps, a reward model that also saw the policy's answers orders more pairs of them as the gold reward does.",
    baseline="a reward model on the labelled pairs alone",
    metric="pair accuracy",
    smallest_effect=0.03,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of pairs of the policy's answers in the gold order."""
    shift, steps = shifted(seed, scale.quick), scale(40)
    rows = pair_rows(shift.policy, shift.records)
    if arm == "baseline":
        return {"pair accuracy": accuracy(judge(rows, BradleyTerry(), seed, steps), shift.held), "moved": shift.moved, "pairs": len(shift.held)}
    more = pair_rows(shift.policy, SPG(alike=0.25)(shift.records, Making(seed, asked(shift.policy, seed + 2))))
    model, beside = judge(with_answers(shift.policy, more, 2, seed + 3), MIB(), seed, steps), judge(more, BradleyTerry(), seed, steps)
    found = {"pair accuracy": accuracy(model, shift.held), "pair accuracy with synthetic pairs alone": accuracy(beside, shift.held)}
    return {**found, "synthetic": float(len(more) - len(rows))}
