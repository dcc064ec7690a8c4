"""Models of several depths that begin out of one distilled block a stage are ahead of models from scratch, at equal cost in all.

Xia et al. 2024 (arXiv 2404.16897, SWS) distil a large model into an auxiliary one whose blocks share weights in each stage, store one block a stage,
and let models of several depths begin as copies of these: better than from scratch, for less training in total. Here builtin:tiny is the large model;
the auxiliary one has three stages of two blocks, begins as its first, third and fifth block, and is distilled on stories for 40 steps. Scored is the
mean loss on held-out stories of models with three and with six blocks, after 20 steps each. The baseline are random models of these depths, each
trained for as many steps as the costs of all this pay for, counted in blocks (a pass without gradient is a third of a step). The range ends at the
entropy of single tokens. The rate is that of `stack`'s claim. Beside it stand models that begin as the large model's first blocks, over again where
there are too few, after 20 steps; on seed 100, which is none of the seeds that count, these were better than both.
"""

from __future__ import annotations

from tempering.items import mean
from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.learngene import Learngene
from tempering.methods.scopes.tied import Tied
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, scratch, sft_rows, tiny, train
from tempering.reshaping.anatomy import built, taken
from tempering.reshaping.run import reshape
from tempering.types import Policy, Role, Row
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="learngene",
    catalogue=("S128",),
    title="Two depths out of one distilled block a stage against both from scratch at equal cost",
    claim="At equal cost in all, models of two depths that begin as copies of one distilled block a stage have a lower loss than from scratch.",
    baseline="random models of both depths, for as many operations",
    metric="loss",
    smallest_effect=0.03,
    higher_is_better=False,
    range=(0.0, 3.9),
)
STAGES, DEPTHS = (2, 2, 2), {3: "1,1,1", 6: "2,2,2"}
BEFORE, STEPS, RATE = 40, 20, 3e-3


def arranged(policy: Policy, order: list[int]) -> Policy:
    """A model of these of another's blocks."""
    return Policy(built(taken(policy.model).arranged(order), policy.model), policy.tokenizer)


def auxiliary(large: Policy, rows: list[Row], seed: int, steps: int) -> Policy:
    """Three stages whose blocks share weights, distilled from the large model."""
    begin = arranged(large, [0, 0, 2, 2, 4, 4])
    made = train(begin, ForwardKL(), rows, steps=steps, seed=seed, lr=RATE, scope=Tied(stages=STAGES), roles={"teacher": Role(large.model)})
    return reshape(made, Learngene(of="2,2,2"), say=lambda _: None)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The mean loss per token of held-out stories over both depths, and each."""
    world, large, before, steps = WordProblems(seed=seed), tiny(), scale(BEFORE), scale(STEPS)
    blocks, both = len(taken(large.model).blocks), sum(DEPTHS)
    longer = steps + round(before * (sum(STAGES) + blocks / 3) / both)
    rows = sft_rows(large, world.records("train", 16 * (before + longer)), train_on="all")
    held = sft_rows(large, world.records("test", scale(100)), train_on="all")

    def after(begin: Policy, steps: int) -> float:
        return loss(train(begin, NLL(), rows[16 * before :][: 16 * steps], steps=steps, seed=seed, lr=RATE), held)

    if arm == "method":
        gene = auxiliary(large, rows[: 16 * before], seed, before)
        found = {f"{depth}": after(reshape(gene, Learngene(to=to), say=lambda _: None), steps) for depth, to in DEPTHS.items()}
        return {"loss": mean(list(found.values())), **found}
    found = {f"{depth}": after(scratch(seed, num_hidden_layers=depth), longer) for depth in DEPTHS}
    first = {f"{depth}, first blocks": after(arranged(large, [i % blocks for i in range(depth)]), steps) for depth in DEPTHS}
    return {"loss": mean(list(found.values())), **found, **first}
