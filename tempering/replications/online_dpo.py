"""Preferences go further through a reward model and the policy's own answers than straight into the policy.

Swamy et al. 2025 ("All Roads Lead to Likelihood", S111) show that both ways have the same optimum (tests/unit/test_likelihood.py computes it) and
find the online one ahead on the same data, since judging is simpler than writing. Here 96 pairs of replies (`_replies.py`) are all there is. The
baseline is DPO on them, for 48 steps. The method fits a reward model to them; in four rounds the policy answers 48 requests four times each, the best
and the worst by that model are a pair, and DPO learns from these for 12 steps, its reference the policy of the round's beginning. Scored is the mean
gold reward of sampled answers to held-out requests.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.dpo import DPO
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models.value import ValueModel
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.replications._replies import TOKENS, Replies, gold, requests
from tempering.rollouts.play import How, play
from tempering.types import Policy, Record, Response

CLAIM = Claim(
    method="dpo",
    catalogue=("S111",),
    title="A reward model and online DPO against offline DPO on the same pairs",
    claim="With the same pairs, a reward model and DPO on the policy's own answers earn more than DPO on the pairs.",
    baseline="DPO on the pairs themselves, as many steps",
    metric="gold reward of samples",
    smallest_effect=0.1,
    range=(-1.0, 3.0),
)
ROUNDS, RATE = 4, 1e-4


def judged(policy: Policy, judge: RewardModel, tasks: list[Record], seed: int) -> list[Record]:
    """The best and the worst of four answers to each request, by the judge, where they differ."""
    made = []
    for task, group in zip(tasks, play(policy, Replies(), list(enumerate(tasks)), 4, How(TOKENS, seed=seed)), strict=True):
        scores = judge([task.prompt] * len(group), [one.answer for one in group])
        best, worst = (group[int(i)].state.messages[len(task.prompt) :] for i in (np.argmax(scores), np.argmin(scores)))
        if best != worst:
            made.append(replace(task, responses=(Response(best), Response(worst)), better=((0, 1),)))
    return made


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """What sampled answers earn."""
    policy = tiny()
    pairs, steps = pair_rows(policy, requests(seed, "train", 96)), scale(12)
    if arm == "baseline":
        policy = train(policy, DPO(), pairs, steps=ROUNDS * steps, seed=seed, lr=RATE)
        return {CLAIM.metric: gold(policy, seed, scale(60))}
    model = Policy(ValueModel(tiny().model), policy.tokenizer)
    judge = RewardModel(train(model, BradleyTerry(), pairs, steps=scale(60), seed=seed, lr=1e-3, batch_size=8))
    fresh = requests(seed, "train", 96 + ROUNDS * 48)[96:]
    for number in range(ROUNDS):
        tasks = fresh[48 * number :][: scale(48)]
        policy = train(policy, DPO(), pair_rows(policy, judged(policy, judge, tasks, seed)), steps=steps, seed=seed + number, lr=RATE)
    return {CLAIM.metric: gold(policy, seed, scale(60))}
