"""A model that begins as a multi-linear function of a smaller trained one, cores trained first, learns faster than from scratch: Mango.

Pan et al. 2023 (arXiv 2310.10699) take a smaller model that was trained before, train the cores for about a hundred steps, and reach the loss of
training from scratch with far fewer operations. Here the text are arithmetic stories. The smaller model has three blocks, half the width of
builtin:tiny and two heads, and has learned for 240 steps, which is not counted, as in the paper; the larger one has six blocks and all of the
width. The cores learn for 6 steps and all weights for 54 more, against 60 steps from scratch. Both arms see the same stories in the same order;
scored by the loss on held-out ones. The range ends at the entropy of single tokens. Beside it stand the loss right after the cores' steps, that of
the larger model whose cores begin as copies and are not trained, after 60 steps, and the smaller model's own. The rate, 3e-3, is that of the claim
on stacking, for all.

Seed 9, which counts in no result, was looked at before: with a smaller model of 40 steps, whose cost was counted, 20 steps of the cores and 40 of all
weights, the method was behind (1.10 against 0.92 from scratch, 1.01 from cores that were not trained). As it is
now it was ahead (0.72 against 0.97), but not of cores that were not trained (0.72).
"""

from __future__ import annotations

from dataclasses import replace

from tempering.methods.objectives.nll import NLL
from tempering.models.save import plain_model
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, scratch, sft_rows, tiny, train
from tempering.reshaping.multilinear import Grown, larger
from tempering.types import Policy
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="mango",
    catalogue=("S188",),
    title="A multi-linear function of a smaller model, cores first, against training from scratch",
    claim="After as many steps, a model that begins as a trained multi-linear function of a smaller one has a lower loss than one from scratch.",
    baseline="the larger model from scratch, for as many steps",
    metric="loss",
    smallest_effect=0.03,
    higher_is_better=False,
    range=(0.0, 3.9),
)
BEFORE, CORES, STEPS, NOISE, RATE = 240, 6, 54, 0.05, 3e-3
SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 2, "num_key_value_heads": 2}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of held-out stories, in nats."""
    world, base, before, first, steps = WordProblems(seed=seed), tiny(), scale(BEFORE), scale(CORES), scale(STEPS)
    rows = sft_rows(base, world.records("train", 16 * max(before, first + steps)), train_on="all")
    held = sft_rows(base, world.records("test", scale(100)), train_on="all")

    def after(start: Policy, steps: int, begin: int = 0) -> Policy:
        return train(start, NLL(), rows[16 * begin : 16 * (begin + steps)], steps=steps, seed=seed, lr=RATE)

    if arm == "baseline":
        return {"loss": loss(after(scratch(seed, num_hidden_layers=6), first + steps), held)}
    small = after(scratch(seed, **SMALL), before)
    cores = Grown(small.model, noise=NOISE, seed=seed)
    begin = replace(small, model=larger(small.model, 2, 6, seed), handle=None)
    grown = train(begin, NLL(), rows[: 16 * first], steps=first, seed=seed, lr=RATE, scope=cores)
    grown = replace(begin, model=plain_model(grown))
    copied = replace(begin, model=Grown(small.model, noise=NOISE, seed=seed).attach(larger(small.model, 2, 6, seed)).bake())
    return {
        "loss": loss(after(grown, steps, first), held),
        "after the cores": loss(grown, held),
        "cores not trained": loss(after(copied, first + steps), held),
        "smaller": loss(small, held),
    }
