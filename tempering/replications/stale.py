"""Online DPO loses less than a clipped policy gradient by learning from answers of older weights.

Noukhovitch et al. 2024 (Asynchronous RLHF, arXiv 2410.18252) sample N mini-batches at a time and take N steps on them, so that the last is learned
from N - 1 updates later than it was sampled, and compare algorithms at several N: all do worse with N, and online DPO least. Here the policy is one
that was shown two ways to answer a sum (`_reinforced.py`), which learns from as many answers at every N (8 to each of 4 sums a step). An arm is an
algorithm: online DPO (`online_dpo.py`), or RLOO with a clipped ratio of whole answers, the paper's algorithm without a critic. The metric is how much
accuracy on held-out sums (likeliest answer) it gains from N = 16 less what it gains from N = 1; below 0, stale answers cost something. Accuracy at
each N stands beside. One rate for both, 2e-4, which suited RLOO on seed 100 (none of the seeds that count); online DPO's was not tuned, and on that
seed it lost as much as RLOO.
"""

from __future__ import annotations

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.online_dpo import OnlineDPO
from tempering.methods.objectives.rloo import RLOO
from tempering.proof.claims import Claim, Scale
from tempering.replications._reinforced import acted, begun, right
from tempering.rollouts.settings import Rollouts
from tempering.types import Objective

CLAIM = Claim(
    method="online_dpo",
    catalogue=("S059",),
    title="Online DPO against a clipped policy gradient on stale answers",
    claim="What is sampled 16 updates at a time costs online DPO less held-out accuracy than it costs RLOO.",
    baseline="RLOO with a clipped ratio of whole answers, on as many answers",
    metric="accuracy gained by staleness",
    smallest_effect=0.05,
    range=(-0.4, 0.4),
)
STEPS = 32
LR = 2e-4
LEVELS = (1, 16)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """What accuracy an algorithm gains from the largest N instead of the smallest; beside it its accuracy at each."""
    start = begun(seed, scale)
    objective: Objective = OnlineDPO() if arm == "method" else RLOO()

    def at(updates: int) -> float:
        settings = Rollouts(updates=updates)
        return right(acted(start, objective, LeaveOneOut(), steps=scale(STEPS, 16), seed=seed, lr=LR, batch_size=4, settings=settings), scale)

    found = {n: at(n) for n in LEVELS}
    return {"accuracy gained by staleness": found[LEVELS[-1]] - found[LEVELS[0]], "start": right(start, scale)} | {
        f"at {n}": accuracy for n, accuracy in found.items()
    }
