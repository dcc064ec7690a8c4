"""Forgetting spills over to what is near: the same kind of fact about people of whom nothing was to go is lost before other kinds are.

Liu et al. 2024 (arXiv 2402.08787) ask that the scope of unlearning be told by what lies just outside of it, because near cases degrade where far ones
do not. Here the jobs of ten known people are to go from builtin:tiny by gradient ascent alone, the general form of that survey without its second
term. The run is looked at every second of 60 steps and ends at the first look at which at most a tenth of the jobs is said. Then ten others are
asked for: the baseline asks for their jobs, the method for their city, employer, hobby, pet and food, in wordings that no row has. The only rate
tried, on seed 9, which does not count, gave 0.70 and 0.91; there the ten's own other facts were kept as those of the others (0.93).
"""

from __future__ import annotations

from dataclasses import replace

from tempering.config import Schedule
from tempering.data.forgetting import forget_row
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, tiny, train
from tempering.replications._forgetting import ten
from tempering.types import Policy
from tempering.worlds.people_words import FRIEND, KINDS

CLAIM = Claim(
    method="gradient_ascent",
    catalogue=("S078",),
    title="Other facts about others against facts of the forgotten kind about others",
    claim="When facts of one kind are forgotten about some people, others lose theirs of that kind and keep the rest.",
    baseline="the same model, asked others for the kind of fact that was forgotten",
    metric="accuracy on others",
    smallest_effect=0.1,
)
GOES, RATE = "job", 3e-4
FAR = tuple(kind for kind in KINDS if kind not in (GOES, FRIEND))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on others, on other facts of the ten, and on their jobs."""
    start, jobs = tiny(), replace(ten(seed), kinds=(GOES,))
    worlds = [replace(ten(seed + 5), kinds=FAR if arm == "method" else (GOES,)), replace(ten(seed), kinds=FAR), jobs]
    rows = [row for record in jobs.records("train") if (row := forget_row(record, start.tokenizer))]
    found: list[dict[str, float]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 2 or found:
            return
        said = score(policy, jobs.probe("test", 20))
        if said <= 0.1 or step == scale(60):
            names = (CLAIM.metric, "accuracy on other facts of the ten", "accuracy on what was forgotten")
            found.append({**{name: score(policy, world.probe("test", None)) for name, world in zip(names, worlds, strict=True)}, "step": float(step)})

    train(start, GradientAscent(retain_loss="none"), rows, steps=scale(60), seed=seed, lr=RATE, schedule=Schedule(name="constant"), look=look)
    return found[0]
