"""Forgetting without a look at the answers, by moving representations, against gradient ascent, which sees them.

Shen et al. 2024 (LAF, arXiv 2404.00506) take classes and rows out of image classifiers without their labels, about as well as methods that have them.
Here it is a language model: ten known people are to go from builtin:tiny, rows are questions without answers, and representations are means over a
question after the third block. The baseline is gradient ascent on the answers with the retain rows' likelihood. What is compared is the best
difference between what stays and what goes, at a step that each arm chooses. The repair with labels, which the paper offers, is left out. Rates are
those of seed 9, which is none of those that count: the best of 3e-4, 1e-3 and 3e-3, and for the baseline the best of 3e-4, 5e-4 and 1e-3.
"""

from __future__ import annotations

from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.unlabelled import Prompts, densities
from tempering.methods.objectives.laf import LAF
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, tiny
from tempering.replications._forgetting import BATCH, staying, ten
from tempering.replications._trade import graddiff, trade
from tempering.signals import engine_for

CLAIM = Claim(
    method="laf",
    catalogue=("S119",),
    title="Label-agnostic forgetting (LAF) against gradient ascent with labels",
    claim="What stays and what goes come further apart when representations of the questions are moved than by ascent on the answers.",
    baseline="gradient ascent on the same rows, answers included, with the retain rows' likelihood (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
RATE = 1e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    if arm == "baseline":
        return graddiff(start, seed, scale)
    going = Prompts([row for record in ten(seed).records("train") if (row := forget_row(record, start.tokenizer))])
    kept = Prompts([row for record in staying(seed) if (row := retain_row(record, start.tokenizer))])
    loss = densities(start, LAF(), going, kept, engine_for(TRAINING))
    return trade(start, loss, seed, scale, lr=RATE, rows=Together(Shuffled(going, BATCH, seed), Shuffled(kept, BATCH, seed)))
