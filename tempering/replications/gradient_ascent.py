"""What stands beside gradient ascent decides how much of the rest survives: rows like those that are to go keep more than rows of another kind.

Yao et al. 2024 (arXiv 2402.15159) compare seven ways to unlearn what a model was pre-trained on, and find that gradient ascent does best with descent
on rows of the same distribution beside it. Here ten known people are to go from builtin:tiny, which was trained on questions about a hundred and on
sums, among other things. The retain rows are questions about the ninety others, or sums and differences; loss, rate and number of rows are the same.
The rate is the best of 3e-4, 5e-4 and 1e-3 for the former on seed 9, which is none of those that count. What is compared is the best difference
between what stays (other people) and what goes, at a step that each arm chooses.
"""

from __future__ import annotations

from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny
from tempering.replications._forgetting import BATCH, ten
from tempering.replications._trade import graddiff, trade
from tempering.worlds.arithmetic import Arithmetic

CLAIM = Claim(
    method="gradient_ascent",
    catalogue=("S084",),
    title="Gradient ascent with retain rows of the same distribution against rows of another",
    claim="What stays and what goes come further apart when the retain rows are like the forget rows.",
    baseline="the same loss with sums for retain rows",
    metric="best difference of accuracies",
    smallest_effect=0.1,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    start, sums = tiny(), Arithmetic(("add", "subtract"), digits=2, steps=True)
    if arm == "method":
        return graddiff(start, seed, scale)
    going = [row for record in ten(seed).records("train") if (row := forget_row(record, start.tokenizer))]
    kept = [row for record in sums.records("train", 2500) if (row := retain_row(record, start.tokenizer))]
    rows = Together(Shuffled(going, BATCH, seed), Shuffled(kept, BATCH, seed))
    return trade(start, GradientAscent(retain_loss="nll"), seed, scale, lr=3e-4, rows=rows)
