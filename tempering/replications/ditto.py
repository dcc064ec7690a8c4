"""Five demonstrations teach more when they are also preferred to what the model writes itself.

Shaikh et al. 2024 (arXiv 2406.00888) fine-tune on fewer than ten demonstrations of a user's style, and go on with DPO on pairs in which a
demonstration beats a sample of the model, of now or of before: the texts are nearer to the style than after fine-tuning alone. Here the style is the
gold reward's (on the topic, courteous, short), and five replies that have all of it are what is known of it. Both arms begin with the same model
after 5 steps on them; the baseline takes 40 more of these, the method four rounds of 10 steps on pairs of ten new samples to each of the five
requests, with the paper's beta and shares. Scored is the gold reward of sampled replies to held-out requests; that of the model both began with
stands beside. The rate is one for all, not tuned: with 1e-3 and 20 steps before, fine-tuning alone was near the best there is on seed 100, which is
none of the seeds that count.
"""

from __future__ import annotations

from typing import Any

from tempering.making import Making, answer, user
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.ditto import DITTO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import pair_rows, sft_rows, tiny, train
from tempering.replications._written import asked, earned
from tempering.rounds import Rounds
from tempering.types import Policy, Record, Row
from tempering.worlds.preferences import TOPICS, Preferences

CLAIM = Claim(
    method="ditto",
    catalogue=("S108",),
    title="DITTO against more fine-tuning on five demonstrations",
    claim="After as many steps, sampled replies are nearer to the style of five demonstrations than after fine-tuning on them alone.",
    baseline="the same model fine-tuned on the five demonstrations for as many steps more",
    metric="gold reward",
    smallest_effect=0.1,
    range=(0.0, 3.0),
)
LR = 3e-4
EVERY, ROUNDS = 10, 4


def demonstrations(world: Preferences, n: int) -> list[Record]:
    """Requests about different topics with replies of the highest gold reward."""
    found: dict[str, Record] = {}
    for item in world.items("train"):
        topic = next(t for t in TOPICS if t in item["prompt"])
        if item["gold"][0] == world.gold.topic + world.gold.courtesy:
            found.setdefault(topic, Record((user(item["prompt"]),), (answer(item["answer"]),), id=item["id"]))
        if len(found) == n:
            break
    return list(found.values())


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Mean gold reward of sampled replies; also that of the model both arms begin with."""
    world, base = Preferences(seed=seed), tiny()
    demos = demonstrations(world, 5)
    rows = sft_rows(base, demos)
    start = train(base, NLL(), rows, steps=scale(5), seed=seed, lr=LR, batch_size=5)
    steps, memory, known = ROUNDS * scale(EVERY), dict[str, Any](), list[Row]()

    def pairs(number: int, model: Any) -> list[Row]:
        making = Making(seed, asked(Policy(model, base.tokenizer), 100 * seed + number), memory=memory)
        # Where every sample is its demonstration, the round goes on with the pairs of the one before.
        if made := list(DITTO()(demos, making)):
            known[:] = pair_rows(base, made)
        return list(known)

    if arm == "baseline":
        tuned = train(start, NLL(), rows, steps=steps, seed=seed, lr=LR, batch_size=5)
        return {"gold reward": earned(tuned, world, scale(60))}
    stream = Rounds(pairs(0, start.model), lambda number, live: pairs(number, live.model), scale(EVERY), 16, seed)
    tuned = train(start, DPO(beta=0.05), stream, steps=steps, seed=seed, lr=LR)
    return {"gold reward": earned(tuned, world, scale(60)), "at the start": earned(start, world, scale(60))}
