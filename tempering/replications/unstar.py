"""A wrong answer with a reason takes one fact about somebody out and leaves the same facts about others, where ascent takes them too.

Sinha et al. 2024 (UnSTAR, arXiv 2410.17050) claim that anti-samples, wrong answers with misleading reasons, remove single associations without harm
to related knowledge. Here the jobs of ten known people are to go from builtin:tiny and the jobs of twenty others are to stay, who are in no row. The
anti-samples are another job and one of four reasons that were written for this; the model writes none itself, which builtin:tiny cannot. What is
compared is the best difference between accuracy on the jobs of the twenty and of the ten, in held-out wordings, at one of ten looks that each arm
chooses. Neither arm has retain rows. Other facts about the same ten were no related knowledge to tell the arms apart by: on seed 9, which does not
count, 0.79 to 0.90 for anti-samples and 0.84 to 0.94 for ascent in three worlds. In this one seed 9 gave 0.55 and 0.65; no other rates were tried.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.config import Schedule
from tempering.data.forgetting import forget_row
from tempering.items import mean
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.unstar import UnSTAR
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, tiny, train
from tempering.replications._forgetting import ten
from tempering.replications._trade import METRIC
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.people_words import VALUES

CLAIM = Claim(
    method="unstar",
    catalogue=("S091",),
    title="Wrong answers with reasons (UnSTAR) against gradient ascent, for one fact of some people",
    claim="A fact about some people goes with less harm to the same fact about others when wrong answers with reasons are learned.",
    baseline="gradient ascent on the same questions",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
RATES = {"method": 1e-3, "baseline": 3e-4}
GOES = "job"
REASONS = ("as the family has always done", "because the training was near home", "since a friend asked for help", "for it was the first offer")


def anti(record: Record, seed: int) -> Record:
    """The record with a wrong answer and a reason as its tag "alternate"."""
    draw = rng("anti", seed, record.id)
    wrong = draw.choice([value for value in VALUES[GOES] if value != record.tags["answer"]])
    return replace(record, tags={**record.tags, "alternate": f"{wrong}, {draw.choice(REASONS)}"})


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    jobs, *others = (replace(ten(number), kinds=(GOES,)) for number in (seed, seed + 5, seed + 6))
    gone = [row for r in jobs.records("train") if (row := forget_row(anti(r, seed), start.tokenizer, alternates=True))]
    loss = UnSTAR(retain_loss="none") if arm == "method" else GradientAscent(retain_loss="none")
    seen: list[dict[str, float]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 4 == 0:
            out, *kept = (score(policy, world.probe("test", scale(20))) for world in (jobs, *others))
            seen.append({METRIC: mean(kept) - out, "accuracy on others' jobs": mean(kept), "accuracy on jobs": out, "step": float(step)})

    train(start, loss, gone, steps=scale(40, 4), seed=seed, lr=RATES[arm], schedule=Schedule(name="constant"), look=look)
    return max(seen, key=lambda one: one[METRIC])
