"""New blocks that are trained alone learn new facts and leave the old model in place: more is known of both than after full fine-tuning.

Wu et al. 2024 (arXiv 2401.02415, LLaMA Pro) add identity blocks, train them alone on a new domain, and report the domain learned with less of the
old lost than by fine-tuning. Here the new domain are the facts of 40 people whom builtin:tiny does not know, and the old one those of 100 others:
five blocks are added, one behind each, and nothing else moves. The baseline moves all weights of the old model on the same rows in the same order,
for as many steps. Scored by the mean of the accuracies on new people (in wordings that were not trained on) and old ones, so that neither learning
nothing nor keeping nothing pays; both stand beside it. The rates are the best of 1e-3, 3e-3 and 6e-3 for the method and of 3e-4, 1e-3 and 3e-3 for
the baseline on seed 100, which is none of the seeds that count; there they came out alike.
"""

from __future__ import annotations

from tempering.methods.objectives.nll import NLL
from tempering.methods.reshapes.block_expansion import BlockExpansion
from tempering.methods.scopes.full import Full
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.reshaping.run import reshape
from tempering.worlds.people import People

CLAIM = Claim(
    method="block_expansion",
    catalogue=("S162",),
    title="Five new blocks trained alone against full fine-tuning: new facts and old ones",
    claim="After the same rows and steps, a model whose new blocks alone were trained knows more of new and old facts together.",
    baseline="the old model with all weights trained on the same rows",
    metric="new and old",
    smallest_effect=0.03,
)
RATES = {"baseline": 1e-3, "method": 3e-3}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The mean of both accuracies, and each."""
    new, old, start = People(40, start=20_000, seed=seed), People(100), tiny()
    only = None
    if arm == "method":
        blocks = "|".join(map(str, BlockExpansion(groups=5).new(5)))
        start, only = reshape(start, BlockExpansion(groups=5), say=lambda _: None), rf"layers\.({blocks})\."
    tuned = train(start, NLL(), sft_rows(start, new.records("train")), steps=scale(120), seed=seed, lr=RATES[arm], scope=Full(only=only))
    learned, kept = (score(tuned, world.probe("test", scale(200))) for world in (new, old))
    return {"new and old": (learned + kept) / 2, "new": learned, "old": kept}
