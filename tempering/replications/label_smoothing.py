"""Label smoothing helps against wrong labels: with a quarter of the answers wrong, more of the right ones are learned.

Lukasik et al. 2020 (arXiv 2003.02819) find that label smoothing, although it adds noise of its own, holds up against noisy labels as loss corrections
do. Here a quarter of the answers about 40 people whom the model does not know are those of somebody else, drawn anew for each of four wordings of a
question. Both arms see the same rows in the same order for as many steps; epsilon is the default. Scored by greedy answers, against the truth, to
wordings that were not trained on. The learning
rate is the better of 1e-3 and 3e-3 for each arm on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.objectives.label_smoothing import LabelSmoothing
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import noisy, score, sft_rows, tiny, train
from tempering.worlds.people import People

CLAIM = Claim(
    method="label_smoothing",
    catalogue=(),
    title="Label smoothing against plain cross-entropy, a quarter of the answers wrong",
    claim="Trained on the same rows, a quarter of them wrong, a model with label smoothing answers more held-out questions right.",
    baseline="the same model trained by plain cross-entropy on the same rows",
    metric="accuracy",
    smallest_effect=0.03,
)


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Accuracy on questions in unseen wordings."""
    world, start = People(40, start=20_000, seed=seed), tiny()
    objective, lr = (LabelSmoothing(), 1e-3) if arm == "method" else (NLL(), 3e-3)
    tuned = train(start, objective, sft_rows(start, noisy(world, 0.25, seed)), steps=scale(60), seed=seed, lr=lr)
    return score(tuned, world.probe("test", scale(200)))
