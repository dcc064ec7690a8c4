"""A controller that was trained for one dimension of what is wanted moves that dimension by its weight, and the other one less.

Li et al. 2024 (arXiv 2412.14626, LDC) train a controller for each dimension by reinforcement with that dimension's reward, and weigh them while the
model writes, so that one dimension can be asked for more than another without training. Here builtin:tiny answers requests, and the dimensions are a
courteous word and the topic of the request being named. Each controller is the start after 20 steps of RLOO for its dimension (8 requests, 8 answers
each, 0.05 for a nat of log-ratio to the start, as `temper run ldc` has it), and works on the logits (`methods/decodes/controllers.py`). Each is
weighed with 0, 0.25, 0.5, 0.75 and 1 while the other weighs 0.

The score is the share of sampled answers to held-out requests that have a dimension, with its controller at 1, less how far the other dimension moved
from where it was at 0, in either direction; averaged over the two controllers. So the baseline, all weights 0, moves nothing, and a controller that
moves both dimensions alike gains nothing. Beside it every point of the sweep, and the share of its eight steps at which the controlled dimension does
not fall. Seed 9, which counts in no result, was looked at once (0.42 and 0.88) and changed only how many requests are asked, 50 to 40, for time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from tempering.items import mean
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.decodes.controllers import Controllers
from tempering.methods.objectives.rloo import RLOO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, start, tiny, train
from tempering.replications._reinforced import CONSTANT
from tempering.replications._replies import TOKENS, requests
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Policy, Role
from tempering.worlds.base import says
from tempering.worlds.preferences import COURTESY, TOPICS

CLAIM = Claim(
    method="ldc",
    catalogue=("S182",),
    title="A controller's weight from 0 to 1: its own dimension against the other",
    claim="A controller at weight 1 raises its dimension above what it is at 0 by more than it moves the other one.",
    baseline="all controllers at weight 0, which is the start model",
    metric="own dimension less the other's move",
    smallest_effect=0.1,
)
STEPS, RATE, COST = 20, 3e-4, 0.05
DIMENSIONS = ("courtesy", "topic")
WEIGHTS = (0.25, 0.5, 0.75, 1.0)


class Dimension(Environment):
    """A reply to a request, paid for one dimension."""

    what: int

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """0 or 1."""
        return found(played)[:, self.what]


def found(played: Sequence[Trajectory]) -> np.ndarray:
    """Whether each answer has a courteous word, and names a topic of its request [N, 2]."""
    pairs = [(one.task.prompt[-1].content, one.answer) for one in played]
    return np.array([[any(says(a, w) for w in COURTESY), any(says(q, t) and says(a, t) for t in TOPICS)] for q, a in pairs], float)


def controller(k: int, seed: int, scale: Scale) -> Policy:
    """The start after reinforcement for one dimension."""
    steps = scale(STEPS)

    def make() -> Policy:
        base, training = tiny(), TRAINING.model_copy(update={"batch_size": 8})
        settings, tasks = Rollouts(kl_cost=COST), requests(seed, "train", 400)
        how = {"training": training, "max_new_tokens": TOKENS, "seed": seed + 1000 * k}
        stream = Conversations(base.tokenizer, Dimension(what=k), tasks, LeaveOneOut(), settings, **how)
        roles = {"reference": Role(tiny().model)}
        return train(base, RLOO(), stream, steps=steps, seed=seed, lr=RATE, schedule=CONSTANT, roles=roles)

    return start({"claim": "ldc", "dimension": DIMENSIONS[k], "seed": seed, "steps": steps, "lr": RATE, "cost": COST}, make)


def shares(policy: Policy, seed: int, scale: Scale) -> np.ndarray:
    """Of four sampled answers to each of some held-out requests that have each dimension [2]."""
    groups = play(policy, Dimension(what=0), list(enumerate(requests(seed, "test", scale(40)))), 4, How(TOKENS, seed=seed))
    return found([one for group in groups for one in group]).mean(0)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The score, and the sweep."""
    base = tiny()
    before = shares(base, seed, scale)
    if arm == "baseline":
        return {CLAIM.metric: mean(before.tolist()), **dict(zip(DIMENSIONS, before.tolist(), strict=True))}
    scores, rises, beside = [], [], {}
    for k, name in enumerate(DIMENSIONS):
        model = controller(k, seed, scale).model
        swept = [before]
        for weight in WEIGHTS:
            steered = replace(base, decode=(Controllers((name,), ((weight,),)),), roles={name: model})
            swept.append(shares(steered, seed, scale))
            beside |= {f"{name} at {weight:g}, {what}": float(share) for what, share in zip(DIMENSIONS, swept[-1], strict=True)}
        scores.append(float(swept[-1][k] - abs(swept[-1][1 - k] - before[1 - k])))
        rises += [float(after[k] >= earlier[k]) for earlier, after in pairwise(swept)]
    return {CLAIM.metric: mean(scores), "steps that do not fall": mean(rises), **beside}
