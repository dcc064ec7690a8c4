"""A deep model that begins as two copies of a shallow trained one learns faster than one that begins at random, the shallow one's cost included.

Du et al. 2024 (arXiv 2405.15319, G_stack) find that depthwise stacking reaches the loss of training from scratch with far fewer operations. Here the
text are arithmetic stories, and a block's step is the unit of cost: three blocks for 40 steps and six blocks for 40 more cost as much as six blocks
for 60 steps from scratch, which is the baseline. Both arms see the stories in the same order; scored by the loss on held-out ones. The range ends
at the entropy of single tokens. Beside it stand the blocks repeated in place (1 1 2 2 3 3), and two copies of the untrained blocks, as many steps as
the method's second part. The rate, 3e-3, is the better of 1e-3 and 3e-3 for both arms on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.stack import Stack
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, scratch, sft_rows, tiny, train
from tempering.reshaping.run import reshape
from tempering.types import Policy
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="stack",
    catalogue=("S158",),
    title="Stacking a trained three-block model against six blocks from scratch at equal cost",
    claim="At equal cost, six blocks that begin as two copies of three trained ones have a lower loss on held-out text than six from scratch.",
    baseline="six blocks from scratch, for as many operations",
    metric="loss",
    smallest_effect=0.03,
    higher_is_better=False,
    range=(0.0, 3.9),
)
STEPS = 40


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of held-out stories, in nats."""
    world, base, steps = WordProblems(seed=seed), tiny(), scale(STEPS)
    rows = sft_rows(base, world.records("train", 32 * steps), train_on="all")
    held = sft_rows(base, world.records("test", scale(100)), train_on="all")

    def after(start: Policy, rows: list, steps: int) -> Policy:
        return train(start, NLL(), rows, steps=steps, seed=seed, lr=3e-3)

    if arm == "baseline":
        return {"loss": loss(after(scratch(seed, num_hidden_layers=6), rows[: 24 * steps], 3 * steps // 2), held)}
    shallow = scratch(seed, num_hidden_layers=3)
    taught = after(shallow, rows[: 16 * steps], steps)
    later = rows[16 * steps :]
    starts = {"loss": (taught, Stack()), "in place": (taught, Stack(order="each")), "untrained": (shallow, Stack())}
    return {name: loss(after(reshape(start, how, say=lambda _: None), later, steps), held) for name, (start, how) in starts.items()}
