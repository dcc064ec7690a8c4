"""Of written answers of mixed quality, A-LoL learns the good ones, where plain fine-tuning learns all.

Baheti et al. 2023 (arXiv 2305.14718) train on answers that somebody else wrote, with a reward for each, and find that A-LoL gets more of the reward
than cross-entropy on the same noisy answers, since it leaves out what earns less than the model's own answers do and draws the rest by how much more
it earns. Here each sum has two written answers: it is worked out and right, or it is the number of another sum and wrong; the reward is 1 or 0. Both
arms begin with a policy that often gives a bare number and is mostly wrong (`_reinforced.py`), and take as many steps of as many rows. What a sum is
worth is the mean reward of four answers of that policy. Scored on held-out sums, by the likeliest answer. The rate of 2e-4 was better than 5e-4 for
the method on seed 100, which is none of the seeds that count, and within 0.01 of 1e-4 for the baseline.
"""

from __future__ import annotations

from dataclasses import replace

from tempering.methods.objectives.a_lol import ALoL
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, train
from tempering.recipes.offline import advantages, drawn, valued
from tempering.replications._reinforced import SUMS, TOKENS, begun, right
from tempering.types import Message, Record, Response
from tempering.worlds.base import rng

CLAIM = Claim(
    method="a_lol",
    catalogue=("S054",),
    title="A-LoL against plain fine-tuning on the same written answers, half of which are wrong",
    claim="Trained on written answers of which half earn nothing, A-LoL is right more often than cross-entropy on all of them.",
    baseline="cross-entropy on all written answers, as many steps on as many rows",
    metric="held-out accuracy",
    smallest_effect=0.1,
)
BATCH = 16


def written(seed: int, count: int) -> list[Record]:
    """Sums with a right and a wrong answer."""
    tasks = list(SUMS.tasks("train", count))
    source = rng("a_lol", seed)
    made = []
    for task in tasks:
        others = [other.tags["answer"] for other in tasks if other.tags["answer"] != task.tags["answer"]]
        wrong = Response((Message("assistant", str(source.choice(others))),))
        made.append(replace(task, responses=(*task.responses, wrong)))
    return made


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Share of held-out sums that are answered right."""
    start, tasks, steps = begun(seed, scale), written(seed, scale(200)), scale(80)
    if arm == "baseline":
        each = [replace(task, responses=(answer,)) for task in tasks for answer in task.responses]
        return right(train(start, NLL(), sft_rows(start, each), steps=steps, seed=seed, lr=2e-4, batch_size=BATCH), scale)
    rows = advantages(start, SUMS, tasks, valued(start, SUMS, tasks, 4, TOKENS, seed))
    return right(train(start, ALoL(), drawn(rows, steps * BATCH, seed), steps=steps, seed=seed, lr=2e-4, batch_size=BATCH), scale)
