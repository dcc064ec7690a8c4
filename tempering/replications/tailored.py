"""What a teacher says of the questions that a student got wrong teaches it more than what it says of as many others.

Wang et al. 2023 (arXiv 2310.13332, Learn-to-Reason) let a student show its mistakes to a teacher, round after round, and learn from rationales that
are made for them. Here questions are sums and differences of two-digit numbers, a rationale works them out place by place ("23 + 40 = 63; 63 + 5 =
68"), and the teacher is an oracle that writes it. builtin:tiny first learns 200 rationales. In each of two rounds the student then answers 300 new
questions once, and 100 rationales are added: the method's are those of questions that it got wrong (`methods/streams/tailored.py`, filled up with
others where fewer are wrong), the baseline's of as many drawn from the same 300. Each round trains all rationales so far. The triplet loss is left
out of both arms: the claim is about which rationales are learned. Scored are held-out questions; beside it how many the student had wrong, and the
student before.

Seed 9, which counts in no result, was looked at twice, with chains of one to four steps: the student had 294 and 279 of 300 wrong, so that wrong ones
were as good as random ones (0.18 and 0.23 with them, 0.21 and 0.21 at random). So the questions are now of a kind of which another claim
(`mistake_tuning`) says that about half are right after as many lessons; this was not looked at before the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tempering.data import prompt_ids
from tempering.making import Making
from tempering.methods.objectives.nll import NLL
from tempering.methods.streams.tailored import Tailored
from tempering.proof.claims import Claim, Scale
from tempering.proof.small import score, sft_rows, tiny, train
from tempering.proof.small import start as kept
from tempering.sample import sample
from tempering.types import Message, Policy, Record
from tempering.worlds.arithmetic import Arithmetic
from tempering.worlds.base import rng

CLAIM = Claim(
    method="tailored",
    catalogue=("S006",),
    title="Rationales for a student's own mistakes against as many for questions drawn at random",
    claim="After as many rationales and steps, a student that was taught what it had wrong solves more held-out sums.",
    baseline="rationales of as many questions drawn at random, from the same questions and teacher",
    metric="accuracy",
    smallest_effect=0.03,
)
GENERIC, POOL, ADDED, ROUNDS = 200, 300, 100, 2
STEPS, TOKENS, LR = 40, 64, 1e-3


def mistaken(student: Policy, pool: list[Record], seed: int) -> list[Record]:
    """The questions that the student gets wrong, each with the oracle's rationale as its answer."""
    oracle = {record.prompt[0].content: record.responses[0].messages[0].content for record in pool}

    def answers(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        asked = [prompt_ids(student.tokenizer, prompt) for prompt in prompts]
        drawn = sample(student, asked, n=n, temperature=temperature, max_new_tokens=TOKENS, seed=seed)
        return [[episode.text for episode in episodes] for episodes in drawn]

    def teacher(prompts: Sequence[tuple[Message, ...]], n: int, temperature: float) -> list[list[str]]:
        # The question stands before the student's answer to it.
        return [[oracle[prompt[0].content.partition("\n")[0]]] for prompt in prompts]

    return list(Tailored(samples=1)(pool, Making(seed, answers, taught=teacher)))


def arm(seed: int, arm: str, scale: Scale) -> dict[str, float]:
    """Accuracy on held-out sums and differences."""
    world = Arithmetic(("add", "subtract"), steps=True, seed=seed)
    generic, pool, added = scale(GENERIC), scale(POOL), scale(ADDED)
    records = list(world.records("train", generic + ROUNDS * pool))
    probe = world.probe("test", scale(300))

    def make() -> Policy:
        base = tiny()
        return train(base, NLL(), sft_rows(base, records[:generic]), steps=scale(STEPS), seed=seed, lr=LR)

    student = kept({"claim": "tailored", "seed": seed, "generic": generic, "steps": scale(STEPS), "lr": LR}, make)
    found: dict[str, float] = {"before": score(student, probe)} if arm == "baseline" else {}
    rows: list[Any] = sft_rows(student, records[:generic])
    for number in range(ROUNDS):
        asked, source = records[generic + number * pool :][:pool], rng("tailored", seed, number)
        wrong = mistaken(student, asked, seed + number) if arm == "method" else []
        had = {record.prompt for record in wrong}
        others = [record for record in asked if record.prompt not in had]
        source.shuffle(wrong)
        source.shuffle(others)
        rows = [*rows, *sft_rows(student, [*wrong, *others][:added])]
        student = train(student, NLL(), rows, steps=scale(STEPS), seed=seed + number + 1, lr=LR)
        found |= {f"wrong in round {number + 2}": float(len(wrong))} if arm == "method" else {}
    return {"accuracy": score(student, probe), **found}
