"""What claims about forgetting share: ten of the hundred people whom builtin:tiny knows are to go, the others are to stay.

Ten are asked about in rows of four wordings of each fact, and then in the two wordings that no row has. Seeds differ in who goes and in the order of
rows, and no model has to be trained before.
"""

from __future__ import annotations

from typing import Any

from tempering.data.forgetting import forget_row, retain_row
from tempering.data.streams import Shuffled, Together
from tempering.forgetting.targets import Secret, secrets
from tempering.proof.small import score
from tempering.types import Policy, Record, Row
from tempering.worlds.people import People

BATCH = 16


def ten(number: int) -> People:
    """Ten of the hundred known people; a multiple of five, so that they are the same people with the same friends."""
    return People(10, start=number % 10 * 10)


def staying(seed: int) -> list[Record]:
    """Questions about the ninety others."""
    return [record for other in range(1, 10) for record in ten(seed + other).records("train")]


def asked(world: People, most: int, split: str = "test") -> tuple[Secret, ...]:
    """Questions about some people, for attacks."""
    return secrets(world.records(split), most)


def both(start: Policy, seed: int, **how: Any) -> Together:
    """A stream of as many rows of what is to go ("forget") as of what is to stay ("retain")."""
    going: list[Row] = [row for record in ten(seed).records("train") if (row := forget_row(record, start.tokenizer, **how))]
    kept: list[Row] = [row for record in staying(seed) if (row := retain_row(record, start.tokenizer))]
    return Together(Shuffled(going, BATCH, seed), Shuffled(kept, BATCH, seed))


def known(policy: Policy, seed: int, most: int = 70) -> tuple[float, float]:
    """Accuracy on held-out questions about those who are to go, and about ten of those who are to stay."""
    return score(policy, ten(seed).probe("test", most)), score(policy, ten(seed + 5).probe("test", most))
