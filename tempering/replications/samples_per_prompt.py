"""Doubling the samples to a prompt adds less the more there are.

Hou et al. 2024 ("Does RLHF Scale?", arXiv 2412.06000) sample more responses to each prompt of policy training and see the reward rise at first and
then level off. Here builtin:tiny replies to requests for a gold reward (-1 to 3: on the topic, courteous, brief) and learns by RLOO, 24 steps on 4
requests each, the same requests at every number of samples, 2, 4, 8 or 16 to each. An arm gives what a doubling adds to the gold reward of sampled
replies to held-out requests: the method from 2 to 4, the baseline from 8 to 16. The rewards themselves stand beside. One pilot on seed 9, which
counts in no result (1.98, 2.18, 2.36 and 2.48 with 2, 4, 8 and 16 samples); nothing was changed after it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.rloo import RLOO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, tiny, train
from tempering.replications._reinforced import CONSTANT
from tempering.replications._replies import TOKENS, Replies, gold, requests
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations

CLAIM = Claim(
    method="rloo",
    catalogue=("S040",),
    title="What twice the samples to a prompt add: from 2 to 4 against from 8 to 16",
    claim="At equal steps and prompts, going from 2 to 4 samples to a prompt adds more to the reward than going from 8 to 16.",
    baseline="what going from 8 to 16 samples adds",
    metric="gold reward that a doubling adds",
    smallest_effect=0.05,
    range=(-0.4, 0.8),
)
FROM = {"method": 2, "baseline": 8}
STEPS, LR = 24, 1e-4


def reward(samples: int, seed: int, scale: Scale) -> float:
    """The gold reward after training with so many samples to a request."""
    start, training = tiny(), TRAINING.model_copy(update={"batch_size": 4})
    how = {"training": training, "max_new_tokens": TOKENS, "seed": seed}
    stream = Conversations(start.tokenizer, Replies(), requests(seed, "train", 400), LeaveOneOut(), Rollouts(samples=samples), **how)  # type: ignore[arg-type]
    return gold(train(start, RLOO(), stream, steps=scale(STEPS), seed=seed, lr=LR, schedule=CONSTANT), seed, scale(100))


def arm(seed: int, arm: str, scale: Scale) -> Mapping[str, float]:
    """What doubling adds, and the rewards at both ends."""
    low = FROM[arm]
    found = {number: reward(number, seed, scale) for number in (low, 2 * low)}
    return {CLAIM.metric: found[2 * low] - found[low], **{f"at {number}": value for number, value in found.items()}}
