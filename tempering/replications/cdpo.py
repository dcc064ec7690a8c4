"""Pairs that are judged by the scores asked for teach a model to meet them, beyond what imitation behind scores does.

Guo et al. 2024 (arXiv 2402.19085) follow CPSFT, which imitates rated answers behind their scores, by CDPO, DPO on pairs that are judged by how near
the scores asked for they come, and find the answers nearer to them. Here a reply has three scores, 1 or 5 each: is it about the topic, is it
courteous, is it short. Both arms begin with the same model after some CPSFT and draw from the same pairs of replies for as many steps, as many
replies a step: the baseline in further CPSFT, the method in CDPO. On held-out requests both are asked for each of the eight combinations in turn.
Beside the distance stand the share of replies with all scores as asked, and the gold reward where the best are asked for. On seed 100, which is none
of the seeds that count, 1e-4 with beta 1 was best for CDPO, of 1e-4 and 3e-4 with beta 1 and of 3e-5 to 1e-3 with beta 0.1, which spoiled the model;
the baseline's rate, 1e-3, is that of the CPSFT before, and was better than 3e-4 on two aspects.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from tempering.items import mean
from tempering.making import Making
from tempering.measure import measure
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams._controls import prefix
from tempering.methods.streams.cdpo import CDPO
from tempering.methods.streams.cpsft import CPSFT
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, pair_rows, score, sft_rows, start, tiny, train
from tempering.types import Record
from tempering.worlds.base import Item
from tempering.worlds.graded import Graded
from tempering.worlds.preferences import Gold, Preferences

CLAIM = Claim(
    method="cdpo",
    catalogue=("S247",),
    title="CDPO after CPSFT against more CPSFT: how far replies are from the scores that are asked for",
    claim="With the same rated replies and steps, the scores of what a model writes are nearer to those asked for after CDPO than after more CPSFT.",
    baseline="the same model after further CPSFT on the same replies, as many a step",
    metric="distance",
    smallest_effect=0.2,
    higher_is_better=False,
    range=(0.0, 4.0),
)
RATES = {"baseline": 1e-3, "method": 1e-4}
BETA = 1.0
FIRST = 40
STEPS = 20
SCALES = {"courtesy": Gold(topic=0, courtesy=1, length=0), "topic": Gold(topic=1, courtesy=0, length=0)}
ASPECTS = ("brevity", *SCALES)


def rated(prompt: str, reply: str) -> dict[str, float]:
    """Each aspect's score: 5 or 1."""
    scores = {name: 5.0 if gold(prompt, reply) > 0 else 1.0 for name, gold in SCALES.items()}
    return {"brevity": 5.0 if len(reply.split()) <= Gold().budget else 1.0, **scores}


def with_scores(record: Record) -> Record:
    """The record with each reply's scores by aspect."""
    replies = (replace(r, aspects=rated(record.prompt[-1].content, r.messages[0].content)) for r in record.responses)
    return replace(record, responses=tuple(replies))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """How far scores are from those asked for; the share of replies with all as asked; and the gold reward where the best are asked for."""
    world, base, steps, before = Preferences(seed=seed), tiny(), scale(STEPS), scale(FIRST)
    records = [with_scores(record) for record in world.records("train", 8 * (steps + before))]
    taught = sft_rows(base, CPSFT()(records[: 8 * before], Making(seed)))
    inputs = {"claim": "cdpo", "rows": fingerprint(taught), "steps": before, "seed": seed, "lr": 1e-3}
    first = start(inputs, lambda: train(base, NLL(), taught, steps=before, seed=seed, lr=1e-3))
    later = records[8 * before :]
    if arm == "method":
        tuned = train(first, DPO(beta=BETA), pair_rows(first, CDPO()(later, Making(seed))), steps=steps, seed=seed, lr=RATES[arm], batch_size=8)
    else:
        tuned = train(first, NLL(), sft_rows(first, CPSFT()(later, Making(seed))), steps=steps, seed=seed, lr=RATES[arm], batch_size=16)
    asked = [dict(zip(ASPECTS, values, strict=True)) for values in product((1.0, 5.0), repeat=len(ASPECTS))]
    items = tuple(
        {**item, "asked": asked[i % len(asked)], "request": item["prompt"], "prompt": prefix(asked[i % len(asked)]) + item["prompt"]}
        for i, item in enumerate(world.items("test", scale(160)))
    )

    def away(output: str, item: Item) -> float:
        return mean([abs(item["asked"][name] - value) for name, value in rated(item["request"], output).items()])

    distance = Graded("distance", items, away, kind="continuous")
    gold = Graded("gold", items[len(asked) - 1 :: len(asked)], lambda output, item: world.reward(item["request"], output), kind="continuous")
    far = [item.score for item in measure(tuned, [distance]).probes[0].items]
    return {"distance": mean(far), "as asked": mean([float(x == 0) for x in far]), "gold reward": score(tuned, gold)}
