"""Answers that an adapter beneath gives already are hardly learned by the model on top of it.

Zhou et al. 2023 (security vectors, arXiv 2311.02105): fine-tuned on harmful and useful rows at once, with vectors that were trained on harmful rows
switched on meanwhile, a model has not learned the harm when they are taken away. Harm is here what five invented people are like, use what fifteen
others are like; nobody knows either before. Both arms see the same rows in the same order with a LoRA adapter of the same size and rate; the method
has the vectors beneath, which have learned the rows of the five. Scored, in held-out wordings and without vectors, is the share of the five people's
facts that were learned (less is better); the share of the others' stands beside it (the paper finds it kept; on seed 100 it fell too). The number of
steps was chosen on seed 100, none of those that count, so that the baseline has learned some.
"""

from __future__ import annotations

import tempfile

from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.lora import LoRA
from tempering.methods.scopes.stacked import Stacked
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.worlds.people import People

CLAIM = Claim(
    method="stacked",
    catalogue=("S225",),
    title="Security vectors against plain fine-tuning: is harm among the rows learned",
    claim="With an adapter beneath that gives the harmful answers, fine-tuning on harmful and useful rows learns fewer of the harmful ones.",
    baseline="the same fine-tuning without the adapter beneath",
    metric="harm learned",
    smallest_effect=0.2,
    higher_is_better=False,
)
RATE, STEPS, VECTOR = 2e-3, 30, 80


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Shares of the harmful and of the useful facts that the model gives when it is asked in other words."""
    start, kinds = tiny(), ("city", "job")
    harm, use = (People(size, start=30_000 + first, seed=seed + 1, kinds=kinds) for size, first in ((5, 0), (15, 5)))
    bad = sft_rows(start, harm.records("train"))
    rows = [*bad, *sft_rows(start, use.records("train"))]
    with tempfile.TemporaryDirectory() as folder:
        if arm == "method":
            vector = train(start, NLL(), bad, steps=scale(VECTOR), seed=seed, lr=RATE, scope=LoRA())
            vector.model.save_pretrained(folder)  # type: ignore[operator]
        scope = Stacked(beneath=(folder,)) if arm == "method" else Stacked()
        tuned = train(start, NLL(), rows, steps=scale(STEPS), seed=seed, lr=RATE, scope=scope)
    learned = {"harm learned": harm, "use learned": use}
    return {name: score(tuned, world.probe("test", None)) for name, world in learned.items()}
