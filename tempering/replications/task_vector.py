"""Walking back from what was learned forgets with less harm than walking away from it.

Si et al. 2023 (arXiv 2311.15766) survey two ways that change weights: optimising the parameters, of which gradient ascent is the first, and merging
them, of which the subtraction of a task vector is; Ilharco et al. 2023 find that subtraction forgets while the rest is kept, where ascent does harm.
Here ten of the people whom builtin:tiny knows are to go. The method is trained on their rows and subtracts what that changed, at the best of eight
factors; the baseline is gradient ascent at the best of its steps. Neither has a retain term. What is compared is the best difference between what
stays and what goes, in wordings that no row has. The baseline's rate is the best of 1e-4, 3e-4 and 1e-3 on seed 9, which does not count (0.19, 0.23
and 0.16); the method's, 1e-3, is the only one tried there (0.43).
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.data.forgetting import forget_row
from tempering.data.streams import Shuffled
from tempering.forgetting.staged import negated
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.methods.objectives.task_vector import TaskVector
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny, train
from tempering.replications._forgetting import BATCH, known, ten
from tempering.replications._trade import METRIC, trade

CLAIM = Claim(
    method="task_vector",
    catalogue=("S035",),
    title="Subtracting a task vector against gradient ascent, both without a retain term",
    claim="What stays and what goes come further apart when a task vector is subtracted than by gradient ascent.",
    baseline="gradient ascent on the same rows",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
RATES = {"method": 1e-3, "baseline": 3e-4}
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
STEPS = 40


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start = tiny()
    rows = [row for record in ten(seed).records("train") if (row := forget_row(record, start.tokenizer))]
    if arm == "baseline":
        return trade(start, GradientAscent(retain_loss="none"), seed, scale, lr=RATES[arm], rows=Shuffled(rows, BATCH, seed))
    before = {name: p.detach().clone() for name, p in start.model.named_parameters()}
    tuned = train(start, TaskVector(), rows, steps=scale(STEPS), seed=seed, lr=RATES[arm], schedule=Schedule(name="constant"))
    seen = [(*known(negated(before, tuned, factor), seed, scale(70)), factor) for factor in FACTORS]
    goes, stays, factor = max(seen, key=lambda found: found[1] - found[0])
    return {METRIC: stays - goes, "accuracy on those who stay": stays, "accuracy on those who go": goes, "factor": factor}
