"""NPO's gradient fades where gradient ascent's does not, so a model that goes on forgetting is torn apart later, and less.

Zhang et al. 2024 (arXiv 2404.05868) find that it goes towards collapse exponentially slower. Both arms begin with the same
gradient, that of the summed log-probs of the forget answers, with the same retain term (NPO-RT and GradDiff), rate, rows and order; they differ by
NPO's weight of each answer alone, with the paper's beta of 0.1. The metric is accuracy on held-out questions about people who are to stay, averaged
over looks every eight of 40 steps: it falls by how early and how deep the model collapses. What is still said of those who are to go stands beside.
The rate is the one of 3e-4 and 1e-3 at which gradient ascent collapses within the 40 steps on seed 9, which is none of those that count.
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.items import mean
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.npo import NPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny, train
from tempering.replications._forgetting import both, known
from tempering.types import Policy

CLAIM = Claim(
    method="npo",
    catalogue=("S082",),
    title="NPO against gradient ascent, both with the retain rows' likelihood",
    claim="At the same rate, and with the same first gradient, more answers about those who stay survive along the way.",
    baseline="gradient ascent on the same rows with the same retain term (GradDiff)",
    metric="accuracy on those who stay, mean over steps",
    smallest_effect=0.1,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on those who stay, over the steps and at the end, and at the end on those who are to go."""
    start, seen = tiny(), list[tuple[float, float]]()

    def look(step: int, policy: Policy) -> None:
        if step % scale(8, 4) == 0:
            seen.append(known(policy, seed, scale(70)))

    loss = NPO() if arm == "method" else GradientAscent(norm="segments", retain_loss="nll")
    train(start, loss, both(start, seed), steps=scale(40, 4), seed=seed, lr=1e-3, schedule=Schedule(name="constant"), look=look)
    kept = [stays for _, stays in seen]
    return {CLAIM.metric: mean(kept), "accuracy on those who stay, at the end": kept[-1], "accuracy on those who go, at the end": seen[-1][0]}
