"""A smaller model's soft labels help a larger one through its first steps: after as many steps of pre-training its loss is lower.

Rawat et al. 2024 (arXiv 2410.18779, SALT) distil from a small model for the first part of pre-training and go on without it; the large model is
then better at the same number of steps. Here the text are arithmetic stories; a model of two blocks and 205,000 weights has read 200 batches of
them, and one of five blocks and 1.26 million weights begins at random on others. The baseline learns from the text alone, in the same order; the
method takes the small model's word for two thirds of the loss (the paper's share) in the first half of the steps. Scored by the loss on held-out
stories; the range ends at the entropy of single tokens. Beside it stand a quarter of the steps with the teacher, and all. The rate, 5e-3, is the
best of 1e-3, 2e-3, 3e-3 and 5e-3 for both arms on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.salt import SALT
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, loss, scratch, sft_rows, start, tiny, train
from tempering.types import Objective, Role
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="salt",
    catalogue=("S064",),
    title="Pre-training with a smaller teacher in the first half of the steps against the text alone",
    claim="After the same text and steps, a model that had a smaller one as its teacher at first has a lower loss on held-out text.",
    baseline="the same random model, trained on the same text without a teacher",
    metric="loss",
    smallest_effect=0.02,
    higher_is_better=False,
    range=(0.0, 3.9),
)
STEPS, BEFORE, RATE = 30, 200, 5e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of held-out stories, in nats."""
    world, base, steps, before = WordProblems(seed=seed), tiny(), scale(STEPS), scale(BEFORE)
    rows = sft_rows(base, world.records("train", 16 * (steps + before)), train_on="all")
    held = sft_rows(base, world.records("test", scale(100)), train_on="all")
    first, later = rows[: 16 * before], rows[16 * before :]
    large = scratch(seed)

    def after(objective: Objective, **more: Role) -> float:
        return loss(train(large, objective, later, steps=steps, seed=seed, lr=RATE, roles=more), held)

    if arm == "baseline":
        return {"loss": after(NLL())}
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 192}
    inputs = {"claim": "salt", "rows": fingerprint(first), "steps": before, "seed": seed, "lr": 3e-3, **shape}
    small = start(inputs, lambda: train(scratch(seed + 1000, **shape), NLL(), first, steps=before, seed=seed, lr=3e-3))
    teacher = Role(small.model)
    found = {name: after(SALT(until=until), teacher=teacher) for name, until in (("loss", steps // 2), ("quarter", steps // 4), ("all", steps))}
    return {**found, "teacher": loss(small, held)}
