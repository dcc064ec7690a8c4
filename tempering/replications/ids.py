"""Iterative data smoothing keeps a reward model that sees noisy pairs many times from learning the noise by heart.

Zhu et al. 2024 (arXiv 2401.16335) see reward models get worse after the first epoch, and better when each pair's label moves, visit by visit, towards
what the model makes of it. Here 128 pairs, a quarter of them labelled the wrong way round, are seen eight times. Both arms start from the same head
and see the same pairs in the same order at the same rate; beta is the default. Scored on held-out pairs by the gold reward's order, free of noise.
The learning rate, one for both, is the best of 3e-4, 1e-3 and 2e-3 for the baseline on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from tempering.data import Numbered
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.ids import IDS
from tempering.methods.rewards.reward_model import RewardModel
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.types import Policy
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="ids",
    catalogue=("S176",),
    title="Iterative data smoothing against Bradley-Terry, eight epochs with a quarter of the labels wrong",
    claim="After eight passes over the same noisy pairs, a reward model with smoothed labels orders more held-out pairs as the gold reward does.",
    baseline="a Bradley-Terry reward model trained on the same pairs",
    metric="pair accuracy",
    smallest_effect=0.03,
)
LR = 1e-3


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Share of held-out pairs in the gold order."""
    import torch

    from tempering.models.value import ValueModel

    world, start = Preferences(noise=0.25, seed=seed), tiny()
    rows = Numbered(pair_rows(start, world.records("train", 128)), held=False)
    model = ValueModel(start.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.value_head.weight, std=0.02)
    objective = IDS(rows=len(rows)) if arm == "method" else BradleyTerry()
    judge = RewardModel(train(Policy(model, start.tokenizer), objective, rows, steps=scale(64), seed=seed, lr=LR))
    items = list(world.items("test", scale(300)))
    better, worse = (judge([item["prompt"] for item in items], [item[key] for item in items]) for key in ("answer", "worse"))
    return float((better > worse).mean())
