"""Five strangers whom builtin:tiny has just learned beside five others, and models that learned the others alone, for claims that need an oracle."""

from __future__ import annotations

import copy
from typing import Any

from tempering.config import Schedule
from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.methods.objectives.nll import NLL
from tempering.proof.claims import Scale
from tempering.proof.small import fingerprint, score, sft_rows, start, tiny, train
from tempering.types import Objective, Policy, Record, Row
from tempering.worlds.people import People

STEPS, RATE = 80, 1e-3


def those(seed: int) -> tuple[People, People]:
    """Who is to go, and who is to stay; other people for every seed."""
    return People(5, start=30_000 + 10 * seed), People(5, start=30_005 + 10 * seed)


def learned(seed: int, scale: Scale, *, everybody: bool, order: int = 0) -> Policy:
    """builtin:tiny after some steps on questions about all ten, or about those who stay; made once.

    Args:
        order: of the rows: another one makes another model of the same kind.
    """
    base, (going, staying) = tiny(), those(seed)
    records: list[Record] = [*(going.records("train") if everybody else ()), *staying.records("train")]
    rows = sft_rows(base, records)
    inputs = {"newcomers": fingerprint(rows), "steps": scale(STEPS), "lr": RATE, "order": order}
    return start(inputs, lambda: train(base, NLL(), rows, steps=scale(STEPS), seed=order, lr=RATE))


def rows_of(seed: int, tokenizer: Any, **how: Any) -> tuple[list[Row], list[Row]]:
    """Rows of who is to go ("forget", and what `how` adds) and of who is to stay ("retain")."""
    going, staying = those(seed)
    gone = [row for record in going.records("train") if (row := forget_row(record, tokenizer, **how))]
    left = [row for record in staying.records("train") if (row := retain_row(record, tokenizer))]
    return gone, left


def silent(objective: Objective, seed: int, scale: Scale, lr: float, **how: Any) -> tuple[Policy, dict[str, float]]:
    """The model that learned all ten once it says at most a tenth of the answers about the five, in held-out wordings; and what it says then.

    It is looked at every second of 40 steps of 8 + 8 rows; where it still says more, it is the last.
    """
    start, (going, staying) = learned(seed, scale, everybody=True), those(seed)
    gone, left = rows_of(seed, start.tokenizer, **how)
    found: list[tuple[Policy, dict[str, float]]] = []

    def look(step: int, policy: Policy) -> None:
        if step % 2 == 0 and not (found and found[-1][1]["said of those who go"] <= 0.1):
            said = {"said of those who go": score(policy, going.probe("test", scale(70))), "step": float(step)}
            found[:] = [(Policy(copy.deepcopy(policy.model), policy.tokenizer, name="silent"), said)]

    rows: Any = Together(Shuffled(gone, 8, seed), Shuffled(left, 8, seed))
    train(start, objective, rows, steps=scale(40, 2), seed=seed, lr=lr, schedule=Schedule(name="constant"), look=look)
    policy, said = found[0]
    return policy, {**said, "said of those who stay": score(policy, staying.probe("test", scale(70)))}
