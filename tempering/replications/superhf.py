"""SuperHF earns as much as PPO on as many samples, or more, with a loss that is supervised.

Mukobi et al. 2023 (SuperHF) sample several completions of each prompt, imitate the best one with a KL prior, and report that this exceeds PPO on the
training objective while answers stay more different. Here the policy was shown two ways to answer a sum (`_reinforced.py`); both arms sample 8
answers to each of 8 sums in 40 steps. Where all eight are wrong there is no best one, and none is imitated (on seed 100 imitating one anyway gave
0.49 instead of 0.56). PPO has a critic, its usual credit and a price for the divergence. Scored is what held-out sums earn by the likeliest answer;
beside it how different 8 samples are. SuperHF's rate is the best of four on seed 100, which is none of the seeds that count, PPO's that of `reft`.
"""

from __future__ import annotations

import copy
from typing import Any

from tempering.config import Optimizer
from tempering.methods.credits.gae import GAE
from tempering.methods.credits.selected import Selected
from tempering.methods.objectives.ppo import PPO
from tempering.methods.objectives.superhf import SuperHF
from tempering.methods.scopes.full import Full
from tempering.models import with_outputs
from tempering.proof.claims import Claim, Scale
from tempering.replications._reinforced import SUMS, TOKENS, acted, begun, right
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.types import Policy, Role

CLAIM = Claim(
    method="superhf",
    catalogue=("S174",),
    title="SuperHF against PPO on as many samples",
    claim="Imitating the best of eight own answers with a KL prior earns more on held-out questions than PPO with as many samples.",
    baseline="PPO with a critic from the same start, with as many samples",
    metric="held-out reward",
    smallest_effect=0.03,
)


def different(policy: Policy, seed: int, scale: Scale) -> float:
    """Share of different texts among 8 samples of an answer."""
    groups = play(policy, SUMS, list(enumerate(SUMS.tasks("test", scale(50)))), 8, How(TOKENS, seed=seed))
    return sum(len({one.answer for one in group}) for group in groups) / (8 * len(groups))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """What held-out sums earn, and how different samples are."""
    start, steps = begun(seed, scale), scale(40)
    if arm == "method":
        tuned = acted(start, SuperHF(), Selected(above=0.0), steps=steps, seed=seed, lr=1e-4)
    else:

        def roles() -> dict[str, Role]:
            whole: Any = Full()
            critic = Role(with_outputs(copy.deepcopy(start), 1).model, whole, Optimizer(lr=3e-4))
            return {"critic": critic, "reference": Role(copy.deepcopy(start.model))}

        tuned = acted(start, PPO(), GAE(), steps=steps, seed=seed, lr=2e-4, settings=Rollouts(kl_cost=0.02), roles=roles)
    return {"held-out reward": right(tuned, scale), "different": different(tuned, seed, scale)}
