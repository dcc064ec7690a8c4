"""Where several reward models agree that a pair is labelled the wrong way round, turning it round makes a better reward model.

Wang et al. 2024 (arXiv 2401.06080, Secrets of RLHF, part II) train several reward models on the same pairs, take the mean of their margins as a
pair's strength, and find that the weakest pairs are labelled wrong and that models are better when these labels are swapped. Here a quarter of 192
pairs is labelled wrong. Five models, which differ in their heads and in the order of the pairs, see them once and give the strengths; the labels of
the weakest quarter are swapped where the strength is negative. Both arms then train the same new model for four epochs: on the pairs as they were,
and on the mended ones. The method has had the five models' work besides; what their mean scores stands beside it as "five models", with the area
under the ROC of the strength for finding wrong labels. Scored on held-out pairs by the gold reward's order, free of noise. The baseline's rate is
the better of 3e-4 and 1e-3 on seed 100, which is none of the seeds that count; 1e-3 is the only one that was tried for the method and the five
models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tempering.data.strength import strength, with_strength
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.probes.calibration import auroc
from tempering.methods.rewards.reward_model import RewardModel
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.types import Policy, Row
from tempering.worlds.base import Item
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="bradley_terry",
    catalogue=("S217",),
    title="Swapping the labels that five reward models doubt, a quarter of the labels wrong",
    claim="A reward model trained after the labels of the weakest pairs were swapped orders more held-out pairs as the gold reward does.",
    baseline="the same reward model trained on the pairs as they were labelled",
    metric="pair accuracy",
    smallest_effect=0.03,
)
RATES = {"judges": 1e-3, "baseline": 3e-4, "method": 1e-3}
MODELS = 5


def margins(model: RewardModel, items: Sequence[Item], better: Sequence[str], worse: Sequence[str]) -> np.ndarray:
    """Reward of one reply less that of the other, by item."""
    prompts = [item["prompt"] for item in items]
    return model(prompts, better) - model(prompts, worse)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out pairs in the gold order; and what the strengths are worth."""
    import torch

    from tempering.models.value import ValueModel

    world, start, steps = Preferences(noise=0.25, seed=seed), tiny(), scale(24)

    def fitted(rows: Sequence[Row], member: int, steps: int, batch_size: int, lr: float) -> RewardModel:
        model = ValueModel(tiny().model)
        with torch.random.fork_rng():
            torch.manual_seed(100 * seed + member)
            torch.nn.init.normal_(model.value_head.weight, std=0.02)
        tuned = train(Policy(model, start.tokenizer), BradleyTerry(), rows, steps=steps, seed=100 * seed + member, lr=lr, batch_size=batch_size)
        return RewardModel(tuned)

    seen, held = list(world.items("train", 8 * steps)), list(world.items("test", scale(300)))
    rows, others = pair_rows(start, world.records("train", 8 * steps)), dict[str, float]()
    gold = [[item[key] for item in held] for key in ("answer", "worse")]
    if arm == "method":
        judges = [fitted(rows, member, steps, 8, RATES["judges"]) for member in range(1, MODELS + 1)]
        labelled = [[item[keys[item["flipped"]]] for item in seen] for keys in (("answer", "worse"), ("worse", "answer"))]
        mu, _ = strength(np.stack([margins(judge, seen, *labelled) for judge in judges]), np.zeros((MODELS, len(seen))))
        flipped = [bool(item["flipped"]) for item in seen]
        rows = with_strength(rows, mu, flip=0.25)
        swapped = np.argsort(mu, kind="stable")[: round(0.25 * len(seen))]
        wrong = [flipped[i] != (i in set(swapped) and mu[i] < 0) for i in range(len(seen))]
        others = {
            "area": float(auroc([-x for x in mu], flipped) or 0.0),
            "wrong labels after": float(np.mean(wrong)),
            "five models": float((np.mean([margins(judge, held, *gold) for judge in judges], 0) > 0).mean()),
        }
    return {"pair accuracy": float((margins(fitted(rows, 0, 2 * steps, 16, RATES[arm]), held, *gold) > 0).mean()), **others}
