"""Where a reward is simpler than the policy that it asks for, a reward model with online DPO gets more out of the same pairs than DPO does.

Swamy et al. 2025 ("All Roads Lead to Likelihood", arXiv 2503.01067): with rewards as rich as policies both have one optimum
(tests/unit/test_likelihood.py computes it, for a bandit of one token among others, to 1e-10), and being online is no gain; it is one where judging
is simpler than writing, because the fitted reward leaves fewer policies to search among. Here what a reply is worth is a sum over its different
words, each with a value that the seed drew, and builtin:tiny writes replies to requests. Of 4 of its answers to each of 96 requests, 192 pairs are
labelled by a Bradley-Terry coin. Both arms take 40 steps on 8 pairs from the same start with the same beta: the baseline on these pairs by DPO,
the method by online DPO on the best and the worst of 4 answers of its own to the same requests, by a reward model that knows of a reply only which
words are in it (logistic regression with a normal prior on the 192 pairs). The metric is the true worth of sampled replies to held-out requests,
in standard deviations of the start's above its mean. Beside it: how many held pairs the reward model has right, and what it thinks of the replies.
One pilot on seed 9, which counts in no result (1.1 by DPO, 2.0 online); nothing was changed after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tempering.making import answer
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.online_dpo import OnlineDPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import TRAINING, pair_rows, tiny, train
from tempering.replications._reinforced import CONSTANT
from tempering.replications._replies import TOKENS, requests
from tempering.rollouts.play import How, play
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, Trajectory
from tempering.types import Policy, Record
from tempering.worlds.base import normal, rng

CLAIM = Claim(
    method="online_dpo",
    catalogue=("S111",),
    title="A simple reward model and online DPO against DPO on the same pairs",
    claim="Where a reply's worth is a sum over its words, a reward model of words with online DPO earns more than DPO on the same pairs.",
    baseline="DPO on the pairs that the reward model was fitted to",
    metric="worth of replies",
    smallest_effect=0.2,
    range=(0.0, 4.0),
)
REQUESTS, STEPS, LR, BETA, SHARP = 96, 40, 2e-4, 0.1, 0.5


def words_of(text: str) -> frozenset[str]:
    """The different words of a reply."""
    return frozenset(normal(text).split())


def worth(seed: int, text: str) -> float:
    """The sum of what the seed drew for each different word."""
    return sum(rng("worth", seed, word).gauss(0, 1) for word in sorted(words_of(text)))


def summed(values: Mapping[str, float], text: str) -> float:
    """The sum of the values of a reply's different words; a word that was in no pair has none."""
    return sum(values.get(word, 0.0) for word in words_of(text))


class Judged(Environment):
    """A reply to a request, paid for its words by a model."""

    values: dict[str, float]

    @property
    def binary(self) -> bool:
        """No."""
        return False

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        """Sums of the words' values."""
        return np.array([summed(self.values, one.answer) for one in played])


def sampled(policy: Policy, tasks: Sequence[Record], seed: int) -> list[list[Trajectory]]:
    """4 replies to each request."""
    return play(policy, Judged(values={}), list(enumerate(tasks)), 4, How(TOKENS, seed=seed))


def labelled(groups: Sequence[Sequence[Trajectory]], seed: int) -> list[tuple[Record, str, str]]:
    """(request, chosen, rejected) of every two replies that differ, by a coin whose odds are the exponential of half their difference in worth."""
    made = []
    for group in groups:
        for i, (one, other) in enumerate(zip(group[::2], group[1::2], strict=True)):
            if words_of(one.answer) != words_of(other.answer):
                apart = SHARP * (worth(seed, one.answer) - worth(seed, other.answer))
                first = rng("label", seed, one.task.id, i).random() < 1 / (1 + math.exp(-apart))
                made.append((one.task, *((one.answer, other.answer) if first else (other.answer, one.answer))))
    return made


def fitted(pairs: Sequence[tuple[Record, str, str]]) -> Mapping[str, float]:
    """The values of words that make the pairs likeliest under a normal prior: Newton's method on a concave function."""
    known = sorted({word for _, *replies in pairs for reply in replies for word in words_of(reply)})
    x_PW = np.array([[(word in words_of(a)) - float(word in words_of(b)) for word in known] for _, a, b in pairs])
    value_W = np.zeros(len(known))
    for _ in range(30):
        doubt_P = 1 / (1 + np.exp(x_PW @ value_W))
        slope_W = x_PW.T @ doubt_P - value_W
        bend_WW = x_PW.T @ ((doubt_P * (1 - doubt_P))[:, None] * x_PW) + np.eye(len(known))
        value_W = value_W + np.linalg.solve(bend_WW, slope_W)
    return dict(zip(known, value_W.tolist(), strict=True))


def arm(seed: int, arm: str, scale: Scale) -> Mapping[str, float]:
    """What sampled replies are worth after training."""
    start, tasks, held = tiny(), requests(seed, "train", scale(REQUESTS)), requests(seed, "test", scale(60))
    pairs = labelled(sampled(start, tasks, seed), seed)
    values = dict(fitted(pairs))
    steps = scale(STEPS)
    if arm == "baseline":
        records = [Record(task.prompt, (answer(a), answer(b)), id=f"{task.id}.{i}", better=((0, 1),)) for i, (task, a, b) in enumerate(pairs)]
        tuned = train(start, DPO(beta=BETA), pair_rows(start, records), steps=steps, seed=seed, lr=LR, batch_size=8, schedule=CONSTANT)
    else:
        training = TRAINING.model_copy(update={"batch_size": 8})
        how = {"training": training, "max_new_tokens": TOKENS, "seed": seed}
        stream = Conversations(start.tokenizer, Judged(values=values), tasks, LeaveOneOut(), Rollouts(samples=4), **how)  # type: ignore[arg-type]
        tuned = train(start, OnlineDPO(beta=BETA), stream, steps=steps, seed=seed, lr=LR, schedule=CONSTANT)
    before, after = ([one for group in sampled(policy, held, seed + 1) for one in group] for policy in (start, tuned))
    true = [np.array([worth(seed, one.answer) for one in some]) for some in (before, after)]
    thought = [Judged(values=values).judge(some) for some in (before, after)]
    other = labelled(sampled(start, held, seed + 2), seed)
    right = [summed(values, a) > summed(values, b) for _, a, b in other]
    return {
        CLAIM.metric: float((true[1].mean() - true[0].mean()) / true[0].std()),
        "thought worth": float((thought[1].mean() - thought[0].mean()) / thought[0].std()),
        "held pairs right": float(np.mean(right)), "pairs": float(len(pairs)),
    }  # fmt: skip
