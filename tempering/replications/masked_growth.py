"""A model that is trained small and grows in every direction without a change of what it computes has a lower loss than one of the final size from
scratch, at equal cost.

Li et al. 2023 (arXiv 2309.03852, FLM-101B) train three sizes, each grown out of the one before by masked structural growth, and pay much less for a
large model. Here the text are arithmetic stories: three blocks of width 96 are trained for 60 steps and grow to five blocks of width 128, with more
neurons and heads, which are trained for 40 more. A step's cost is the number of weights, and the baseline, of the final size from scratch, takes as
many steps as that pays for, in the same order of stories. Scored by the loss on held-out ones; the range ends at the entropy of single tokens. Beside
it stand the loss just before growth and just after. The rate, 3e-3, is that of `stack`'s claim.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.masked_growth import MaskedGrowth
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, scratch, sft_rows, tiny, train
from tempering.reshaping.run import reshape
from tempering.types import Policy, Row
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="masked_growth",
    catalogue=("S180",),
    title="Masked growth in depth, width, neurons and heads against the final size from scratch at equal cost",
    claim="At equal cost, a model that grew out of a trained smaller one has a lower loss on held-out text than one of its size from scratch.",
    baseline="the final size from scratch, for as many operations",
    metric="loss",
    smallest_effect=0.03,
    higher_is_better=False,
    range=(0.0, 3.9),
)
SMALL = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 288, "num_attention_heads": 3, "num_key_value_heads": 3}
GROWTH = MaskedGrowth(layers=5, neurons=384, heads=4, width=128)
BEFORE, AFTER, RATE = 60, 40, 3e-3


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of held-out stories, in nats."""
    world, base, before, steps = WordProblems(seed=seed), tiny(), scale(BEFORE), scale(AFTER)
    rows = sft_rows(base, world.records("train", 16 * (before + steps)), train_on="all")
    held = sft_rows(base, world.records("test", scale(100)), train_on="all")

    def after(start: Policy, rows: list[Row], steps: int) -> Policy:
        return train(start, NLL(), rows, steps=steps, seed=seed, lr=RATE)

    small, large = scratch(seed, **SMALL), scratch(seed)
    if arm == "baseline":
        steps += round(before * small.model.num_parameters() / large.model.num_parameters())  # type: ignore[operator]
        return {"loss": loss(after(large, rows[: 16 * steps], steps), held)}
    taught = after(small, rows[: 16 * before], before)
    grown = reshape(taught, GROWTH, say=lambda _: None)
    found = {"small": loss(taught, held), "grown": loss(grown, held)}
    return {"loss": loss(after(grown, rows[16 * before :], steps), held), **found}
