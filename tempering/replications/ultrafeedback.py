"""Several ratings of an answer, one for each aspect, make better pairs than one rating of the whole.

Cui et al. 2023 (arXiv 2310.01377) rate every answer on four aspects, and a reward model trained on pairs by the mean of these ratings is better than
one trained on pairs by an overall rating. Here a request has four replies, and a judge rates 1 to 5 with Gaussian noise of standard deviation 2, the
same for every rating it gives: whether a reply is on the topic, whether it is courteous, and whether it is short; or the reply as a whole. Both arms
take a pair a request by the same rule, the best and by seed a worse one, and train a Bradley-Terry model on 160 pairs for four epochs; ties give no
pair, so both are cut to as many. The gold reward is the sum of the three, weighted alike. Scored on held-out pairs by its order, free of noise; the
gold reward of the best of eight replies and the share of right labels stand beside it. The learning rate, one for both, is the better of 3e-4 and
1e-3 for the baseline on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tempering.items import mean
from tempering.making import Making, answer, user
from tempering.methods.objectives.bradley_terry import BradleyTerry
from tempering.methods.rewards.reward_model import RewardModel
from tempering.methods.streams.ultrafeedback import UltraFeedback
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, tiny, train
from tempering.types import Policy, Record
from tempering.worlds.base import rng
from tempering.worlds.preferences import Gold, Preferences

CLAIM = Claim(
    method="ultrafeedback",
    catalogue=("S251",),
    title="Reward models on pairs by the mean of three aspects' ratings against pairs by one overall rating",
    claim="After as many pairs and steps, a reward model on pairs by the ratings of aspects orders more held-out pairs as the gold reward does.",
    baseline="the same reward model on pairs by one overall rating with the same noise",
    metric="pair accuracy",
    smallest_effect=0.03,
)
LR = 3e-4
NOISE = 2.0
GOLD = Gold(topic=1, courtesy=1, length=0.05)
ASPECTS = {"topic": replace(GOLD, courtesy=0, length=0), "courtesy": replace(GOLD, topic=0, length=0), "brevity": replace(GOLD, topic=0, courtesy=0)}


def pools(world: Preferences, split: str, replies: int) -> Iterator[tuple[str, list[str]]]:
    """Requests with as many different replies."""
    found: dict[str, list[str]] = {}
    for item in world.items(split):
        pool = found.setdefault(item["prompt"], [])
        for reply in (item["answer"], item["worse"]):
            if len(pool) < replies and reply not in pool:
                pool.append(reply)
                if len(pool) == replies:
                    yield item["prompt"], pool


def rated(world: Preferences, prompt: str, replies: list[str]) -> Record:
    """The replies with a rating of each aspect, and one of the whole as score: 1 to 5, noise included."""

    def seen(true: float, *key: str) -> float:
        return float(min(5, max(1, round(1 + 4 * true + rng("judge", world.seed, prompt, *key).gauss(0, NOISE)))))

    made = []
    for reply in replies:
        # Each aspect has about 1 between its best and its worst, brevity below 0; the whole has 3.
        aspects = {name: seen(gold(prompt, reply) + (name == "brevity"), reply, name) for name, gold in ASPECTS.items()}
        made.append(replace(answer(reply, score=seen((world.reward(prompt, reply) + 1) / 3, reply)), aspects=aspects))
    return Record((user(prompt),), tuple(made), id=prompt, source=prompt)


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out pairs in the gold order; gold reward of the best of eight; and the share of right labels among the pairs."""
    import torch

    from tempering.models.value import ValueModel

    world, start, steps = Preferences(gold=GOLD, seed=seed), tiny(), scale(40)
    source = pools(world, "train", 4)
    records = [rated(world, *next(source)) for _ in range(6 * steps)]
    if arm == "baseline":
        records = [replace(r, responses=tuple(replace(one, aspects={}) for one in r.responses)) for r in records]
    pairs = list(UltraFeedback()(records, Making(seed)))[: 4 * steps]
    model = ValueModel(start.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.value_head.weight, std=0.02)
    judge = RewardModel(train(Policy(model, start.tokenizer), BradleyTerry(), pair_rows(start, pairs), steps=steps, seed=seed, lr=LR))
    items = [item for item in world.items("test", scale(400)) if item["gold"][0] - item["gold"][1] > 0.1]
    better, worse = (judge([item["prompt"] for item in items], [item[key] for item in items]) for key in ("answer", "worse"))
    held = pools(world, "test", 8)
    best = [(prompt, pool[int(judge([prompt] * 8, pool).argmax())]) for prompt, pool in (next(held) for _ in range(scale(40)))]
    labels = [[world.reward(r.prompt[0].content, one.messages[0].content) for one in r.responses] for r in pairs]
    return {
        "pair accuracy": float((better > worse).mean()),
        "gold reward of the best of eight": mean([world.reward(*one) for one in best]),
        "right labels": mean([float(good > bad) for good, bad in labels]),
        "pairs": float(len(pairs)),
    }
