"""Reinforced fine-tuning goes further on the same questions than more of the supervised kind.

Luong et al. 2024 (arXiv 2401.08967, ReFT) warm up on worked answers and go on with PPO on the same questions, paid for right answers: all that
supervised training has of a question is its demonstration, while sampling tries other ways and finds out which are right. Here the policy is one that
was shown two ways to answer a sum (`_reinforced.py`). The baseline sees the same demonstrations again for as many optimizer steps as the method has,
on 16 of them a step; the method samples 8 answers to each of 8 of the same sums and takes two steps on each round, with the paper's credit and value
weight. Scored on held-out sums, by the likeliest answer. The method's rate and price of a nat were chosen on seed 100, which is none of the seeds
that count. More computing goes into the method, as in the paper.
"""

from __future__ import annotations

import copy
from typing import Any

from tempering.config import Optimizer
from tempering.methods.credits.gae import GAE
from tempering.methods.objectives.nll import NLL
from tempering.methods.objectives.ppo import PPO
from tempering.methods.scopes.full import Full
from tempering.models import with_outputs
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import sft_rows, train
from tempering.replications._reinforced import acted, begun, demonstrations, right
from tempering.rollouts.settings import Rollouts
from tempering.types import Role

CLAIM = Claim(
    method="ppo",
    catalogue=("S088",),
    title="ReFT against more supervised fine-tuning on the same questions",
    claim="After a warm-up, PPO on the policy's own answers is right more often than as many more steps on the demonstrations.",
    baseline="supervised fine-tuning on the demonstrations of the same questions, as many steps more",
    metric="held-out accuracy",
    smallest_effect=0.05,
)


def arm(seed: int, arm: str, scale: Scale) -> float:
    """Share of held-out sums that are answered right."""
    start, steps = begun(seed, scale), scale(80)
    if arm == "baseline":
        return right(train(start, NLL(), sft_rows(start, demonstrations(seed)), steps=steps, seed=seed, lr=1e-3), scale)

    def roles() -> dict[str, Role]:
        whole: Any = Full()
        critic = Role(with_outputs(copy.deepcopy(start), 1).model, whole, Optimizer(lr=3e-4))
        return {"critic": critic, "reference": Role(copy.deepcopy(start.model))}

    settings = Rollouts(epochs=2, kl_cost=0.02)
    return right(acted(start, PPO(value=5.0), GAE(), steps=steps, seed=seed, lr=2e-4, settings=settings, roles=roles), scale)
