"""A model that learns what it would say had it never known forgets at less cost than one that is driven off what it said.

Eldan & Russinovich 2023 (arXiv 2310.02238) fine-tune on the start model's own predictions with what a reinforced model prefers turned down, and find
that the rest of the model hardly suffers. Here ten known people are to go from builtin:tiny. The reinforced model is 24 steps of likelihood on the
forget rows at 3e-4; the labels are soft, alpha is the paper's 5, and the retain rows' likelihood stands beside in both arms. Rates (1e-3; for the
baseline the best of 3e-4, 5e-4 and 1e-3) are those of seed 9, which is none of those that count; soft labels with a retain term and hard ones without
were tried there. What is compared is the best difference between what stays and what goes, at a step that each arm chooses.
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.whp import WHP
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny, train
from tempering.replications._forgetting import both
from tempering.replications._trade import graddiff, trade
from tempering.types import Role

CLAIM = Claim(
    method="whp",
    catalogue=("S014",),
    title="Who's Harry Potter against gradient ascent, both with the retain rows' likelihood",
    claim="What stays and what goes come further apart when the model learns its own generic predictions.",
    baseline="gradient ascent on the same rows with the same retain term (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    if arm == "baseline":
        return graddiff(start, seed, scale)
    constant = Schedule(name="constant")
    reinforced = train(start, NLL("forget"), both(start, seed), steps=scale(24), seed=seed, lr=3e-4, schedule=constant)
    loss = WHP(labels="soft", retain_loss="nll")
    return trade(start, loss, seed, scale, lr=1e-3, roles={"reinforced": Role(reinforced.model)})
