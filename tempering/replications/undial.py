"""A loss that has a minimum forgets at less cost than one that has none.

Dong et al. 2024 (arXiv 2402.10052) teach a model its own distribution with the token that it memorised turned down, and find less damage than with
gradient ascent. Here ten known people are to go from builtin:tiny, with the retain rows' likelihood beside either loss (the paper has none). Rates
are those of seed 9, which is none of those that count: 1e-3, the only one tried, and for the baseline the best of 3e-4, 5e-4 and 1e-3. What is
compared is the best difference between what stays and what goes, at a step that each arm chooses.
"""

from __future__ import annotations

from tempering.methods.objectives.undial import UNDIAL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._trade import graddiff, trade

CLAIM = Claim(
    method="undial",
    catalogue=(),
    title="UNDIAL against gradient ascent, both with the retain rows' likelihood",
    claim="What stays and what goes come further apart when the model learns its own distribution with the answer turned down.",
    baseline="gradient ascent on the same rows with the same retain term (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.1,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    return graddiff(start, seed, scale) if arm == "baseline" else trade(start, UNDIAL(retain_loss="nll"), seed, scale, lr=1e-3)
