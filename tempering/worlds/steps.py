"""Worked solutions whose steps are labelled: stories of `WordProblems`, half of them with a miscalculated step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tempering.worlds.arithmetic import WordProblems
from tempering.worlds.base import Item, record, rng

if TYPE_CHECKING:
    from tempering.types import Record


def step_records(world: WordProblems, split: str = "train", n: int | None = None) -> Iterator[Record]:
    """A world's worked solutions with a label for each step (`mistaken`), lazily; the tags are those of the shape "stepwise"."""
    for item in world.items(split, n):
        steps, right = mistaken(item, rng("mistake", world.seed, item["id"]))
        made = record(world.name, {**item, "completion": "\n".join(steps)})
        yield replace(made, tags={**made.tags, "steps": tuple(steps), "step_labels": tuple(map(float, right))})


def mistaken(item: Item, source: random.Random) -> tuple[list[str], list[bool]]:
    """The steps of an item with worked steps, one of them miscalculated in half of all cases, and whether each is right; what comes after a mistake
    goes on from its wrong number and is wrong too."""
    lines = item["completion"].partition(". Answer: ")[0].split("; ")
    wrong = source.randrange(len(lines)) if source.random() < 0.5 else len(lines)
    steps, before, total = [], "", ""
    for i, line in enumerate(lines):
        a, sign, b, _, result = line.split()
        # A step that goes on from the one before it goes on from what was said there.
        a = total if i and a == before else a
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        before, total = result, str(value + (source.choice((-10, -2, -1, 1, 2, 10)) if i == wrong else 0))
        steps.append(f"{a} {sign} {b} = {total}")
    return [*steps, f"Answer: {total}"], [i < wrong for i in range(len(lines))] + [wrong == len(lines)]
