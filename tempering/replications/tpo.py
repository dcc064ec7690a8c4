"""Thoughts that are never judged get better when the answers behind them are.

Wu et al. 2024 (arXiv 2410.10630) let a model think before it answers, show a judge the answers alone, and train it on the best and worst outputs in
rounds: a model that thinks ends above one that answers at once, when both are trained so. Here the answers are replies to requests, and the judge is
the gold reward itself (on the topic, courteous, short). The model was shown replies of every quality both ways, each after its own words: at once,
and after a thought, which says of what kind the reply will be. Both arms take four rounds of the same steps on pairs that the same maker makes of
eight outputs to a request. Scored is the gold reward of sampled replies to held-out requests; an output without a reply has -1. That of the model
before the rounds stands beside. The rate is not tuned; 8 steps a round were too many on seed 100, which is none of the seeds that count: the baseline
came near the best there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tempering.items import mean
from tempering.making import Making, answer, user
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.tpo import TPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, pair_rows, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._written import answers, asked
from tempering.types import Message, Policy, Record
from tempering.worlds.base import says
from tempering.worlds.preferences import COURTESY, TOPICS, Preferences

CLAIM = Claim(
    method="tpo",
    catalogue=("S110",),
    title="Thought preference optimisation against the same rounds without a thought",
    claim="After rounds of preference tuning by replies alone, a model that thinks first writes better replies than one that answers at once.",
    baseline="the same model and rounds, asked to answer at once",
    metric="gold reward",
    smallest_effect=0.1,
    range=(0.0, 3.0),
)
ASK = {"baseline": "At once: ", "method": "Think: "}
LR = 1e-4
EVERY, ROUNDS = 5, 4


def thought(reply: str) -> str:
    """Of what kind a reply is."""
    topic = next((t for t in TOPICS if says(reply, t)), "something else")
    return f"Thought: {topic}, {'kind' if any(says(reply, c) for c in COURTESY) else 'curt'}, {'long' if len(reply.split()) > 16 else 'brief'}. "


def shown(world: Preferences, n: int) -> Iterator[Record]:
    """Replies of every quality, each both ways."""
    for record in world.records("train", n, view="demonstrations"):
        reply = record.responses[0].messages[0].content
        for mode, before in ASK.items():
            said = f"{thought(reply) if mode == 'method' else ''}Response: {reply}"
            yield Record((user(before + record.prompt[0].content),), (answer(said),), id=f"{record.id}-{mode}")


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Mean gold reward of sampled replies, asked in the arm's own way; after the rounds and before."""
    world, base = Preferences(seed=seed), tiny()
    rows = sft_rows(base, shown(world, scale(400)))
    start = kept(
        {"claim": "tpo", "rows": fingerprint(rows), "steps": scale(60)}, lambda: train(base, NLL(), rows, steps=scale(60), seed=seed, lr=1e-3)
    )
    how = TPO(ask=ASK[arm], judge="gold")
    prompts = list(dict.fromkeys(item["prompt"] for item in world.items("train", scale(400))))[: ROUNDS * scale(32)]
    records = [Record((user(prompt),), (answer(""),), id=prompt) for prompt in prompts]

    def marks(name: str, requests: Sequence[tuple[Message, ...]], replies: Sequence[str]) -> list[float]:
        return [world.reward(prompt[0].content, reply) for prompt, reply in zip(requests, replies, strict=True)]

    def earned(policy: Policy) -> float:
        held = [item["prompt"] for item in world.items("test", scale(60))]
        outputs = answers(policy, [ASK[arm] + prompt for prompt in held], 4, seed=0)
        return mean([world.reward(prompt, how.response(text)) for prompt, of in zip(held, outputs, strict=True) for text in of])

    tuned = start
    for number in range(ROUNDS):
        # A round of its own, with the model at its beginning as the reference.
        making = Making(seed, asked(tuned, 100 * seed + number), marks)
        tuned = train(tuned, DPO(beta=0.1), pair_rows(base, how(records[number::ROUNDS], making)), steps=scale(EVERY), seed=seed + number, lr=LR)
    return {"gold reward": earned(tuned), "before the rounds": earned(start)}
