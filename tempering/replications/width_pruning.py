"""A small model that is cut out of a trained one and distilled from it is better than one of the same size from scratch.

Muralidharan et al. 2024 (arXiv 2407.14679, Minitron) prune by activations, train the small model on the large one's distributions, and find it better
than training that size from scratch with many times the tokens. Here builtin:tiny loses half of its neurons and half of its heads, by what goes
through it on 64 training rows, and is distilled (forward KL) on worked arithmetic stories; the baseline is a random model of the same shape, which
learns the same rows in the same order by cross-entropy. Scored by the loss on the answers to held-out stories. The range ends at the entropy of
single tokens. Beside it stand the pruned model before any training, and after as many steps of cross-entropy. The rate, 3e-3, is the better of
1e-3 and 3e-3 for all on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.objectives.forward_kl import ForwardKL
from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.width_pruning import WidthPruning
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import loss, scratch, sft_rows, tiny, train
from tempering.reshaping.run import reshape
from tempering.types import Role
from tempering.worlds.arithmetic import WordProblems

CLAIM = Claim(
    method="width_pruning",
    catalogue=("S085",),
    title="Half of the neurons and heads pruned, then distilled, against that size from scratch",
    claim="With the same rows and steps, a model pruned to half its width and distilled has a lower held-out loss than one of its size from scratch.",
    baseline="a random model of the pruned one's shape, trained on the same rows",
    metric="loss",
    smallest_effect=0.1,
    higher_is_better=False,
    range=(0.0, 3.9),
)
STEPS = 40


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Loss per token of the answers, in nats."""
    world, base, steps = WordProblems(seed=seed), tiny(), scale(STEPS)
    rows = sft_rows(base, world.records("train", 16 * steps))
    held = sft_rows(base, world.records("test", scale(200)))
    how = {"steps": steps, "seed": seed, "lr": 3e-3}
    config = base.model.config
    if arm == "baseline":
        heads = {name: getattr(config, name) // 2 for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size")}
        return {"loss": loss(train(scratch(seed, **heads), NLL(), rows, **how), held)}
    read = [segment.ids.tolist() for row in rows[:64] for segment in row["train"]]
    pruned = reshape(base, WidthPruning(neurons=0.5, heads=0.5), read, say=lambda _: None)
    tuned = train(pruned, ForwardKL(), rows, roles={"teacher": Role(base.model)}, **how)
    return {"loss": loss(tuned, held), "pruned": loss(pruned, held), "by cross-entropy": loss(train(pruned, NLL(), rows, **how), held)}
