"""An ensemble of reward models survives best-of-n better than one reward model does.

Coste et al. 2023 (arXiv 2310.02743) train five reward models that differ in their seeds on the same pairs, a quarter of them labelled the wrong way
round, and select answers by one of them, or by the smallest of their scores: the gold reward of what is selected is higher under the ensemble, and
one model's falls at large n. Here five small models see the same pairs in different orders from different heads; the policy is builtin:tiny, which
writes replies of every quality, and the selection is from 64. The baseline is the mean over the five models taken one at a time. The learning rate
is the better of 3e-4 and 1e-3 for single models on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

import functools

import numpy as np

from tempering.best_of import curve, pools, scored
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.rewards.ensemble import Ensemble
from tempering.methods.rewards.reward_model import RewardModel
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.types import Policy
from tempering.worlds.preferences import Preferences

CLAIM = Claim(
    method="ensemble",
    catalogue=("S207",),
    title="Best of 64 by the worst of five reward models against one, a quarter of the labels wrong",
    claim="The answer that the smallest of five reward models' scores finds best among 64 has a higher gold reward than one model's choice.",
    baseline="each of the five reward models by itself, averaged",
    metric="share of the possible gain",
    smallest_effect=0.05,
)
MODELS = 5


@functools.lru_cache(maxsize=1)
def _pool(seed: int, quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """(gold rewards [P, N], the five models' rewards [5, P, N]): both arms judge the same."""
    import torch

    from tempering.models.value import ValueModel

    scale, start, world = Scale(quick), tiny(), Preferences(noise=0.25, seed=seed)
    steps = scale(60)
    rows = pair_rows(start, world.records("train", 8 * steps))
    prompts = [item["prompt"] for item in world.items("test", scale(24))]
    answers = [[episode.text for episode in pool] for pool in pools(start, prompts, scale(64), max_new_tokens=48, seed=seed)]
    found = []
    for member in range(MODELS):
        model = ValueModel(tiny().model)
        with torch.random.fork_rng():
            torch.manual_seed(MODELS * seed + member)
            torch.nn.init.normal_(model.value_head.weight, std=0.02)
        tuned = train(Policy(model, start.tokenizer), BradleyTerry(), rows, steps=steps, seed=MODELS * seed + member, lr=1e-3, batch_size=8)
        found.append(scored(RewardModel(tuned), prompts, answers))
    gold = np.array([[world.reward(prompt, answer) for answer in pool] for prompt, pool in zip(prompts, answers, strict=True)])
    return gold, np.stack(found)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """How much of what the pool's best would gain over its mean the selected answer gains; and the gold reward by log2 n."""
    gold, scores = _pool(seed, scale.quick)
    if arm == "baseline":
        curves = [curve(one, gold) for one in scores]
    else:
        ensemble = Ensemble((RewardModel(""),) * MODELS, "worst")
        curves = [curve(ensemble.combine(scores), gold)]
    best, mean = float(gold.max(1).mean()), float(gold.mean())
    by_n = {f"gold at {n}": sum(c.gold[i] for c in curves) / len(curves) for i, n in enumerate(curves[0].n)}
    found = {"share of the possible gain": (by_n[f"gold at {curves[0].n[-1]}"] - mean) / (best - mean), **by_n}
    if arm == "method":
        for how in ("mean", "uncertainty"):
            other = curve(Ensemble((RewardModel(""),) * MODELS, how).combine(scores), gold)
            found[f"share under {how}"] = (other.gold[-1] - mean) / (best - mean)
    return found
