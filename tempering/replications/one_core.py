"""Five algorithms of one core raise a reward from the same start: PPO, RLOO, REINFORCE++, iterative DPO and rejection sampling.

OpenRLHF (Hu et al. 2024, arXiv 2405.11143) is a framework in which these are settings of one system; what can be claimed of that on a laptop is that
they all learn. The settings are those of `examples/reinforcement`, on another task: builtin:tiny replies to requests for a gold reward (-1 to 3: on
the topic, courteous, brief), 24 steps on 4 requests with 8 answers each at 2e-4. The method's score is the least gold reward of sampled replies to
held-out requests among the five; each one's stands beside. The rate and the steps are those of the claim `samples_per_prompt`, doubled; no pilot.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tempering.config import Optimizer
from tempering.methods.credits.gae import GAE
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.credits.returns import Returns
from tempering.methods.credits.selected import Selected
from tempering.methods.objectives.online_dpo import OnlineDPO
from tempering.methods.objectives.ppo import PPO
from tempering.methods.objectives.reinforce import Reinforce
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.scopes.full import Full
from tempering.models.value import with_outputs
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, tiny, train
from tempering.replications._reinforced import CONSTANT
from tempering.replications._replies import TOKENS, Replies, gold, requests
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.types import Policy, Role

CLAIM = Claim(
    method="ppo",
    catalogue=("S070",),
    title="The least of five algorithms from one start, against the start",
    claim="PPO, RLOO, REINFORCE++, iterative DPO and rejection sampling all raise the reward of held-out replies.",
    baseline="the start model",
    metric="gold reward",
    smallest_effect=0.2,
    range=(-1.0, 3.0),
)
STEPS, LR, COST = 24, 2e-4, 0.02
ALGORITHMS: Mapping[str, tuple[Any, Any, Rollouts]] = {
    "ppo": (PPO(), GAE(whiten=True), Rollouts(updates=2, kl_cost=COST, kl_target=3)),
    "rloo": (RLOO(), LeaveOneOut(), Rollouts(kl_cost=COST)),
    "reinforce_pp": (Reinforce(), Returns(whiten=True), Rollouts(kl_cost=COST)),
    "iterative_dpo": (OnlineDPO(), LeaveOneOut(), Rollouts(updates=10)),
    "rejection_sampling": (Reinforce(), Selected(), Rollouts()),
}


def learned(start: Policy, name: str, seed: int, steps: int) -> Policy:
    """The start after an algorithm's steps."""
    objective, credit, settings = ALGORITHMS[name]
    training, whole = TRAINING.model_copy(update={"batch_size": 4}), Full()
    how: Any = {"training": training, "max_new_tokens": TOKENS, "seed": seed}
    roles: dict[str, Role] = {"reference": Role(copy.deepcopy(start.model))} if settings.kl_cost else {}
    if "value" in credit.asks:
        roles["critic"] = Role(with_outputs(copy.deepcopy(start), 1).model, whole, Optimizer(lr=3e-4))  # type: ignore[arg-type]
    stream = Conversations(start.tokenizer, Replies(), requests(seed, "train", 400), credit, settings, **how)
    return train(start, objective, stream, steps=steps, seed=seed, lr=LR, schedule=CONSTANT, roles=roles)


def arm(seed: int, arm: str, scale: Scale) -> Mapping[str, float]:
    """The gold reward, of the method the least of five."""
    start, count = tiny(), scale(60)
    if arm == "baseline":
        return {CLAIM.metric: gold(start, seed, count)}
    found = {name: gold(learned(start, name, seed, scale(STEPS)), seed, count) for name in ALGORITHMS}
    return {CLAIM.metric: min(found.values()), **found}
