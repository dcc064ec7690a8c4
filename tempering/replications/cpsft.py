"""Answers that were imitated behind their own scores can be asked for by score.

Guo et al. 2024 (arXiv 2402.19085) fine-tune on rated answers with the scores before the prompt (CPSFT, the first stage of controllable preference
optimisation), and find that the answers' scores then follow what is asked for. Here the replies have two scores by the gold reward, 1 or 5 each: is
the reply about the topic, is it courteous. Both arms imitate the same replies, of every quality, in the same order for as many steps; the baseline
without the scores. On held-out requests both are asked for each of the four combinations in turn. The gold reward under <courtesy:5><topic:5> stands
beside. The learning rate, one for both, is the only one that was tried, on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from tempering.making import Making
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams._controls import prefix
from tempering.methods.streams.cpsft import CPSFT
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.types import Record
from tempering.worlds.graded import Graded
from tempering.worlds.preferences import Gold, Preferences

CLAIM = Claim(
    method="cpsft",
    catalogue=("S247",),
    title="Scores before the prompt against none: do replies have the scores that are asked for",
    claim="After the same replies and steps, more of what a model writes has the scores asked for if it was trained with scores before the prompts.",
    baseline="the same model fine-tuned on the same replies without scores, asked in the same way",
    metric="as asked",
    smallest_effect=0.1,
)
LR = 1e-3
SCALES = {"courtesy": Gold(topic=0, courtesy=1, length=0), "topic": Gold(topic=1, courtesy=0, length=0)}


def rated(prompt: str, reply: str) -> dict[str, float]:
    """Each aspect's score: 5 or 1."""
    return {name: 5.0 if gold(prompt, reply) > 0 else 1.0 for name, gold in SCALES.items()}


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of replies with both of the scores asked for; and the gold reward where the best are."""
    world, start = Preferences(seed=seed), tiny()

    def with_scores(record: Record) -> Record:
        replies = (replace(r, aspects=rated(record.prompt[-1].content, r.messages[0].content)) for r in record.responses)
        return replace(record, responses=tuple(replies))

    records = [with_scores(record) for record in world.records("train", 16 * scale(60), view="demonstrations")]
    rows = sft_rows(start, CPSFT()(records, Making(seed)) if arm == "method" else records)
    tuned = train(start, NLL(), rows, steps=scale(60), seed=seed, lr=LR)
    asked = [dict(zip(SCALES, values, strict=True)) for values in product((1.0, 5.0), repeat=2)]
    items = tuple(
        {**item, "asked": asked[i % 4], "request": item["prompt"], "prompt": prefix(asked[i % 4]) + item["prompt"]}
        for i, item in enumerate(world.items("test", scale(160)))
    )
    met = Graded("asked", items, lambda output, item: rated(item["request"], output) == item["asked"])
    gold = Graded("gold", items[3::4], lambda output, item: world.reward(item["request"], output), kind="continuous")
    return {"as asked": score(tuned, met), "gold reward": score(tuned, gold)}
