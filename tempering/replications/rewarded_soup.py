"""Weights that were trained apart for two rewards and averaged earn more of both together than the line between the two: rewarded soups.

Rame et al. 2023 (arXiv 2306.04488) fine-tune one start on each reward alone and interpolate the weights: the front of the interpolations bends above
the chord between its ends, because the weights stay linearly connected. Here builtin:tiny answers requests and is paid for a courteous word, or for
more than 16 words: RLOO, 8 answers to each request. Scored are three soups, a quarter, a half and three quarters of the way, by the mean of both
rewards over sampled answers to held-out requests; the baseline is that mean on the chord at the same places, which is that of the two ends. Beside
them stand the rewards of each model, and those of one that was trained for the mean of both for as many steps. The rewards were chosen on seed
100, which is none of the seeds that count (there with 30 steps); short answers and courtesy had turned out not to be apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tempering.items import mean
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.merges.linear import Linear
from tempering.methods.objectives.rloo import RLOO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, start, tiny, train
from tempering.replications._merging import merged
from tempering.replications._replies import TOKENS, requests
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Policy
from tempering.worlds.base import normal, says
from tempering.worlds.preferences import COURTESY

CLAIM = Claim(
    method="linear",
    catalogue=("S071",),
    title="Averages of two models trained for two rewards against the chord between them",
    claim="Averages of the weights of two models, each trained for one reward, earn more of both together than the line between their rewards.",
    baseline="the chord between the rewards of the two models",
    metric="mean of both rewards",
    smallest_effect=0.03,
)
STEPS, RATE = 20, 3e-4
SHARES = (0.25, 0.5, 0.75)
PAID = {"courtesy": (1.0, 0.0), "length": (0.0, 1.0), "both": (0.5, 0.5)}


class Paid(Environment):
    """A reply to a request: paid for a courteous word, for more than 16 words, or half for each."""

    what: str

    @property
    def binary(self) -> bool:
        """Whether rewards are 0 or 1."""
        return self.what != "both"

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """0 to 1."""
        return earned(played) @ np.array(PAID[self.what])


def earned(played: Sequence[Trajectory]) -> np.ndarray:
    """Both rewards of each answer [N, 2]."""
    answers = [one.answer for one in played]
    return np.array([[any(says(answer, word) for word in COURTESY), len(normal(answer).split()) > 16] for answer in answers], float)


def taught(what: str, seed: int, scale: Scale) -> Policy:
    """builtin:tiny after some steps for one of the rewards."""
    steps = scale(STEPS)
    inputs = {"claim": "rewarded_soup", "paid": PAID[what], "seed": seed, "steps": steps, "lr": RATE}

    def make() -> Policy:
        base, training = tiny(), TRAINING.model_copy(update={"batch_size": 8})
        tasks = requests(seed, "train", 400)
        stream = Conversations(base.tokenizer, Paid(what=what), tasks, LeaveOneOut(), Rollouts(), training=training, max_new_tokens=TOKENS, seed=seed)
        return train(base, RLOO(), stream, steps=steps, seed=seed, lr=RATE)

    return start(inputs, make)


def rewards(policy: Policy, seed: int, scale: Scale) -> tuple[float, float]:
    """Courtesy and length of 4 sampled answers to each of some held-out requests."""
    groups = play(policy, Paid(what="both"), list(enumerate(requests(seed, "test", scale(40)))), 4, How(TOKENS, seed=seed))
    courtesy, length = earned([one for group in groups for one in group]).mean(0).tolist()
    return courtesy, length


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """The mean of both rewards, and both of each model."""
    ends = [taught(what, seed, scale) for what in ("courtesy", "length")]
    models = dict(zip(("0", "1"), ends, strict=True))
    if arm == "method":
        models = {f"{share}": merged(Linear(weight=(1 - share, share)), ends) for share in SHARES}
    found = {name: rewards(policy, seed, scale) for name, policy in models.items()}
    beside = {} if arm == "baseline" else {"trained for both": rewards(taught("both", seed, scale), seed, scale)}
    told = {f"{name}, {what}": value for name, of in {**found, **beside}.items() for what, value in zip(("courtesy", "length"), of, strict=True)}
    return {CLAIM.metric: mean([mean(of) for of in found.values()]), **told}
