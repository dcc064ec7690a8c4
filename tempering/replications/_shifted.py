"""What claims about reward models share that must judge a policy which has learned by one: the pairs, that policy, and pairs of its own answers.

A reward model is trained on pairs of which a quarter are labelled wrong; builtin:tiny then takes DPO on the best and the worst of eight answers of
its own by that model. What it writes now is not what the pairs look like. Judged are two answers of it to a held-out request whose gold rewards
differ.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from tempering.making import answer, user
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.objectives.dpo import DPO
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models.value import ValueModel
from tempering.proof.claims import Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.replications._written import TOKENS, answers
from tempering.sample import sample
from tempering.types import Objective, Policy, Record, Row, Segment
from tempering.worlds.preferences import Preferences

LR = 1e-3
"""Of all reward models here: the better of 3e-4 and 1e-3 on seed 100 for the one on the pairs alone."""
PAIRS = 240


@dataclass(frozen=True)
class Shift:
    """The records of the pairs, the policy, and its (request, better answer, worse answer)."""

    records: tuple[Record, ...]
    policy: Policy
    held: tuple[tuple[str, str, str], ...]
    moved: float
    """Gold reward of the policy's answers less that of the start model's."""


def judge(rows: Sequence[Row], objective: Objective, seed: int, steps: int, ahead: tuple[float, Objective] | None = None) -> RewardModel:
    """A new reward model on these rows."""
    import torch

    base = tiny()
    model = ValueModel(base.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.value_head.weight, std=0.02)
    return RewardModel(train(Policy(model, base.tokenizer), objective, rows, steps=steps, seed=seed, lr=LR, ahead=ahead))


@functools.lru_cache(maxsize=1)
def shifted(seed: int, quick: bool) -> Shift:
    """Both arms judge the same policy."""
    scale, start, world = Scale(quick), tiny(), Preferences(noise=0.25, seed=seed)
    records = tuple(world.records("train", scale(PAIRS)))
    first = judge(pair_rows(start, records), BradleyTerry(), 1000 + seed, scale(40))
    prompts = list(dict.fromkeys(record.prompt[0].content for record in records))[: scale(100)]
    made = []
    for prompt, texts in zip(prompts, answers(start, prompts, 8, seed), strict=True):
        marks = first([prompt] * len(texts), texts)
        both = [answer(texts[int(i)]) for i in (marks.argmax(), marks.argmin())]
        made.append(Record((user(prompt),), tuple(both), better=((0, 1),), id=prompt))
    policy = train(start, DPO(beta=0.05), pair_rows(start, made), steps=scale(40), seed=seed, lr=3e-4)
    held, gold = [], {}
    asked = list(dict.fromkeys(item["prompt"] for item in world.items("test", scale(300))))
    for name, writer in (("before", start), ("after", policy)):
        drawn = answers(writer, asked, 4, seed + 1)
        gold[name] = np.array([[world.reward(prompt, text) for text in texts] for prompt, texts in zip(asked, drawn, strict=True)])
    for prompt, texts, rewards in zip(asked, drawn, gold["after"], strict=True):
        held += [(prompt, texts[i], texts[j]) for i, j in permutations(range(len(texts)), 2) if rewards[i] - rewards[j] > 0.1]
    return Shift(records, policy, tuple(held), float(gold["after"].mean() - gold["before"].mean()))


def accuracy(model: RewardModel, held: Sequence[tuple[str, str, str]]) -> float:
    """Share of pairs in the gold order."""
    prompts, better, worse = (list(column) for column in zip(*held, strict=True))
    return float((model(prompts, better) > model(prompts, worse)).mean())


def with_answers(policy: Policy, rows: Sequence[Row], n: int, seed: int) -> list[Row]:
    """The rows of pairs with the part "responses": `n` sampled answers to each prompt."""
    prompts = [row["chosen"][0].ids[: int(row["chosen"][0].weight.nonzero()[0][0])].tolist() for row in rows]
    drawn = sample(policy, prompts, n=n, temperature=1.0, max_new_tokens=TOKENS, seed=seed)
    made = []
    for row, prompt, episodes in zip(rows, prompts, drawn, strict=True):
        ends = [(np.array([*prompt, *e.ids], np.int32), np.repeat(np.array([0, 1], np.float32), [len(prompt), len(e.ids)])) for e in episodes]
        made.append({**row, "responses": tuple(Segment(ids, weight) for ids, weight in ends)})
    return made
