"""Thoughts that are never judged get better when the answers behind them are.

Wu et al. 2024 (arXiv 2410.10630) let a model think before it answers, show a judge the answers alone, and train it on the best and worst outputs in
rounds: a model that thinks begins below one that answers at once, and ends above it when both are trained so. Here the questions are sums and
differences of two-digit numbers. The model was shown both ways, each after its own words: an answer at once, and one after a worked thought, which in
`LOST` of the demonstrations is the thought of another sum. Both arms take four rounds of the same steps on pairs that the same maker makes of eight
samples to a question, marked by whether the answer is right; the baseline answers at once. Scored on held-out questions by the likeliest output;
accuracy before the rounds stands beside. Rates were chosen on seed 100, which is none of the seeds that count.
"""

from __future__ import annotations

from collections.abc import Iterator

from tempering.making import Making, answer, user
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.tpo import TPO
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import fingerprint, pair_rows, score, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.replications._written import asked
from tempering.types import Record
from tempering.worlds.arithmetic import Arithmetic
from tempering.worlds.base import rng
from tempering.worlds.graded import Graded

CLAIM = Claim(
    method="tpo",
    catalogue=("S110",),
    title="Thought preference optimisation against the same rounds without a thought",
    claim="After rounds of preference tuning by answers alone, a model that thinks first is right more often than one that answers at once.",
    baseline="the same model and rounds, asked to answer at once",
    metric="accuracy",
    smallest_effect=0.1,
)
ASK = {"baseline": "At once: ", "method": "Think: "}
LOST = 0.6
"""Share of thoughts that are those of another sum."""
LR = 3e-4
EVERY, ROUNDS = 12, 4


def shown(world: Arithmetic, seed: int, n: int) -> Iterator[Record]:
    """Demonstrations of both ways, all with right answers."""
    items = list(world.items("train", n))
    for i, item in enumerate(items):
        other = items[(i + 7) % n] if rng("lost", seed, item["id"]).random() < LOST else item
        thought = other["completion"].partition(" Answer:")[0]
        for mode, before in ASK.items():
            said = f"{thought if mode == 'method' else ''} Answer: {item['answer']}".strip()
            yield Record((user(before + item["prompt"]),), (answer(said),), id=f"{item['id']}-{mode}")


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Share of held-out questions whose likeliest output ends right, asked in the arm's own way; after the rounds and before."""
    world, base = Arithmetic(("add", "subtract"), steps=True, seed=seed), tiny()
    rows = sft_rows(base, shown(world, seed, scale(400)))
    start = kept(
        {"claim": "tpo", "rows": fingerprint(rows), "steps": scale(80)}, lambda: train(base, NLL(), rows, steps=scale(80), seed=seed, lr=1e-3)
    )
    items = list(world.items("test", scale(150)))
    asks = tuple({**item, "prompt": ASK[arm] + item["prompt"]} for item in items)
    how, questions = TPO(mark="Answer:", ask=ASK[arm]), list(world.items("train", scale(160)))
    records = [Record((user(item["prompt"]),), (answer(item["answer"]),), id=item["id"]) for item in questions]

    tuned = start
    for number in range(ROUNDS):
        # A round of its own, with the model at its beginning as the reference.
        making = Making(seed, asked(tuned, 100 * seed + number))
        tuned = train(tuned, DPO(beta=0.1), pair_rows(base, how(records[number::ROUNDS], making)), steps=scale(EVERY), seed=seed + number, lr=LR)
    return {name: score(policy, Graded(name, asks, world.grade)) for name, policy in (("accuracy", tuned), ("before the rounds", start))}
