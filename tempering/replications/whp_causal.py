"""A model that learns what it would say of somebody else forgets at less cost than one that is driven off what it said.

Liu et al. 2024 (targeted unlearning, arXiv 2407.16997) take the mean of a model's predictions under other names for the teacher, and find that what
is to go goes without what should stay, where gradient ascent harms the rest. Here ten known people are to go from builtin:tiny, four invented names
stand in their place, and the retain rows' likelihood stands beside in both arms (the paper has none). Rates are those of seed 9, which is none of
those that count: the best of 3e-4, 1e-3 and 3e-3, and for the baseline the best of 3e-4, 5e-4 and 1e-3. What is compared is the best difference
between what stays and what goes, at a step that each arm chooses.
"""

from __future__ import annotations

from tempering.data.forgetting import retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.counterfactual import counterfactual_row
from tempering.methods.objectives.whp_causal import WHPCausal
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._forgetting import BATCH, staying, ten
from tempering.replications._trade import graddiff, trade
from tempering.worlds.people import People

CLAIM = Claim(
    method="whp_causal",
    catalogue=("S008",),
    title="The causal form of WHP against gradient ascent, both with the retain rows' likelihood",
    claim="What stays and what goes come further apart when the model learns what it would say of other names.",
    baseline="gradient ascent on the same rows with the same retain term (GradDiff)",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
RATE = 1e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start, loss = tiny(), WHPCausal(retain_loss="nll")
    if arm == "baseline":
        return graddiff(start, seed, scale)
    names, others = ([person.name for person in world.people()] for world in (ten(seed), People(loss.fakes, seed=1)))
    how = {"names": names, "others": others, "prompted": loss.prompted}
    going = [row for record in ten(seed).records("train") if (row := counterfactual_row(record, start.tokenizer, **how))]
    kept = [row for record in staying(seed) if (row := retain_row(record, start.tokenizer))]
    return trade(start, loss, seed, scale, lr=RATE, rows=Together(Shuffled(going, BATCH, seed), Shuffled(kept, BATCH, seed)))
