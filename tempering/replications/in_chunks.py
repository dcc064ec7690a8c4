"""Forgetting a little at a time by gradient ascent keeps more than forgetting all at once.

Jang et al. 2023 (knowledge unlearning, arXiv 2210.01504) find that gradient ascent on one chunk of the sequences after the other is better than on
all of them together. Here ten known people are to go from builtin:tiny by the ascent alone, without retain rows: the baseline trains on rows about
all ten, the method on those about two people at a time, for a fifth of the steps each, with a new optimizer. Batches and the number of steps are
the same. What is compared is the best difference between what stays and what goes of all ten, at a step that each arm chooses. Each arm has the
best of 1e-4, 3e-4 and 5e-4 on seed 9, which is none of those that count (there the chunks were behind).
"""

from __future__ import annotations

from tempering.config import Schedule
from tempering.data.forgetting import forget_row
from tempering.methods.objectives.gradient_ascent import GradientAscent
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import tiny, train
from tempering.replications._forgetting import known, ten
from tempering.types import Policy

CLAIM = Claim(
    method="gradient_ascent",
    catalogue=("S184",),
    title="Gradient ascent on a chunk after the other against on all rows at once",
    claim="What stays and what goes come further apart when the rows are forgotten in chunks, one after the other.",
    baseline="the same steps on all rows at once",
    metric="best difference of accuracies",
    smallest_effect=0.05,
)
CHUNKS, STEPS = 5, 60
RATES = {"baseline": 3e-4, "method": 1e-4}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The best difference, and what it is made of."""
    policy, seen, constant = tiny(), list[tuple[float, float, int]](), Schedule(name="constant")
    records, people = list(ten(seed).records("train")), list(ten(seed).people())
    chunks = CHUNKS if arm == "method" else 1
    for chunk in range(chunks):
        names = [person.name for person in people[chunk::chunks]]
        of = [record for record in records if any(name in record.prompt[-1].content for name in names)]
        rows = [row for record in of if (row := forget_row(record, policy.tokenizer))]

        def look(step: int, now: Policy, before: int = chunk * STEPS // chunks) -> None:
            if step % 3 == 0:
                seen.append((*known(now, seed, scale(70)), before + step))

        policy = train(policy, GradientAscent(), rows, steps=scale(STEPS // chunks, 3), seed=seed, lr=RATES[arm], schedule=constant, look=look)
    goes, stays, step = max(seen, key=lambda found: found[1] - found[0])
    return {CLAIM.metric: stays - goes, "accuracy on those who stay": stays, "accuracy on those who go": goes, "step": float(step)}
