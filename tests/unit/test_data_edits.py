"""Edit scripts are shortest, and their marks make the rows that dense DPO and FIGA look at."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from tempering.data.edits import changed, corrected, edit
from tempering.fit import Means, count_terms, total
from tempering.layout import collate
from tempering.methods.objectives.dense_dpo import DenseDPO
from tempering.methods.objectives.figa import FIGA
from tempering.methods.objectives.nll import NLL
from tempering.signals import Engine, Live
from tempering.types import Row, Segment
from tests.toy import toy_llama


def brute(old: tuple[int, ...], new: tuple[int, ...]) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (old[i - 1] != new[j - 1]))

    return distance(len(old), len(new))


@pytest.mark.parametrize("seed", range(20))
def test_a_script_is_as_short_as_can_be_and_makes_the_new_from_the_old(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = rng.integers(0, 4, rng.integers(0, 9)), rng.integers(0, 4, rng.integers(0, 9))
    found = edit(old, new)
    assert found.length == brute(tuple(old.tolist()), tuple(new.tolist()))
    # What stays is the same on both sides, in order; every operation marks a token that went, one that came, or one of each.
    assert old[~found.went].tolist() == new[~found.came].tolist()
    assert max(found.went.sum(), found.came.sum()) <= found.length <= found.went.sum() + found.came.sum()


def pair(chosen: list[int], rejected: list[int]) -> Row:
    prompt = [5, 6]

    def segment(answer: list[int]) -> Segment:
        return Segment(np.array(prompt + answer, np.int32), np.array([0.0] * 2 + [1.0] * len(answer), np.float32))

    return {"chosen": (segment(chosen),), "rejected": (segment(rejected),)}


def step(objective: object, rows: list[Row]) -> float:
    parts = collate(rows)
    roles = {"policy": Live(toy_llama(hidden=16, layers=1)), "reference": Live(toy_llama(seed=1, hidden=16, layers=1))}
    return total(roles, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), Means())  # type: ignore[arg-type]


def test_marks_of_a_pair() -> None:
    row = corrected(pair([7, 8, 9, 10, 2], [7, 11, 9, 12, 13, 2]))
    assert row["chosen"][0].extras["corrected"].tolist() == [0, 0, 0, 1, 0, 1, 0]
    assert sum(row["rejected"][0].extras["corrected"]) == 3 and row["rejected"][0].extras["corrected"][3] == 1
    made = changed(pair([7, 8, 9, 2], [7, 11, 9, 2]))["train"]
    assert [s.weight.tolist() for s in made] == [[0, 0, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0]]
    assert [s.extras["revised"].tolist() for s in made] == [[1] * 6, [0] * 6]


def test_without_an_edit_only_the_end_carries_weight() -> None:
    same = changed(pair([7, 8, 2], [7, 8, 2]))
    assert [s.weight.tolist() for s in same["train"]] == [[0, 0, 0, 0, 1], [0] * 5]
    assert step(FIGA(), [same]) == pytest.approx(step(NLL(), [{"train": same["train"][:1]}]), abs=1e-6)
    rows = [corrected(pair([7, 8, 2], [7, 8, 2]))]
    assert step(DenseDPO(), rows) == pytest.approx(math.log(2), abs=1e-6)
