"""DPO learns from pairs what imitation of their better answers does not: which of two answers is the better one.

Rafailov et al. 2023 (arXiv 2305.18290) compare DPO with fine-tuning on the preferred answers ("Preferred-FT") and find it better on every task
(figures 2 and 3). Here a quarter of the pairs are labelled the wrong way round, so that the "preferred" answers are often the worse ones. Both arms
see the same pairs, in the same order, for as many steps. Scored on held-out requests by the gold reward's own order, free of noise. The learning
rates are the best of 1e-4, 3e-4 and 1e-3 for each arm on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import only, pair_rows, score, tiny, train
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="dpo",
    catalogue=(),
    title="DPO against fine-tuning on the chosen answers, a quarter of the labels wrong",
    claim="With the same pairs and steps, DPO tells the better of two held-out answers apart more often than fine-tuning on the chosen answers.",
    baseline="the same model fine-tuned on the chosen answers of the same pairs",
    metric="pair accuracy",
    smallest_effect=0.05,
)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Pair accuracy and gold reward of what is written, on held-out requests."""
    world, start = Preferences(noise=0.25, seed=seed), tiny()
    pairs = pair_rows(start, world.records("train", 16 * scale(60)))
    if arm == "method":
        tuned = train(start, DPO(), pairs, steps=scale(60), seed=seed, lr=3e-4)
    else:
        tuned = train(start, NLL(), only(pairs, "chosen"), steps=scale(60), seed=seed, lr=1e-3)
    return {"pair accuracy": score(tuned, world.probe("test", scale(300))), "gold reward": score(tuned, world.reward_probe("test", scale(50)))}
