"""Compounding errors on a chain (S205): closed forms, the bound, and the walk itself."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

from tempering.methods.environments.chain import Chain
from tempering.rollouts.types import State


def by_paths(steps: int, stone: float, water: float) -> float:
    """The expectation over all 2^steps ways that a walk can go."""
    total = 0.0
    for wrong in product((False, True), repeat=steps):
        chance, wet = 1.0, False
        for one in wrong:
            error = water if wet else stone
            chance *= error if one else 1 - error
            wet = one
        total += chance * sum(wrong)
    return total


@pytest.mark.parametrize(("stone", "water"), [(0.1, 0.7), (0.3, 1.0), (0.02, 0.02), (0.0, 1.0)])
def test_expected_mistakes_are_those_of_all_paths(stone: float, water: float) -> None:
    assert Chain(length=7).mistakes(stone, water) == pytest.approx(by_paths(7, stone, water))


def test_cloning_grows_with_the_square_of_the_horizon_and_who_recovers_with_the_horizon() -> None:
    e = 1e-4
    for steps in (1, 5, 20, 40):
        lost, back = Chain(length=steps).mistakes(e, 1.0), Chain(length=steps).mistakes(e, e)
        assert lost == pytest.approx(sum(1 - (1 - e) ** t for t in range(1, steps + 1)))
        assert back == pytest.approx(steps * e)
        assert lost <= e * steps * (steps + 1) / 2 and lost == pytest.approx(e * steps * (steps + 1) / 2, rel=1e-2)


def walked(chain: Chain, begin: int, moves: list[str]) -> State:
    async def play() -> State:
        state = await chain.reset(next(task for split in ("train", "test") for task in chain.tasks(split) if task.id == str(begin)))
        paid = 0.0
        for move in moves:
            assert not state.done
            state = await chain.step(state, move)
            paid += state.reward
        assert state.done and paid == pytest.approx(1 - sum(state.memory["wrong"]) / chain.length)
        return state

    return asyncio.run(play())


def test_a_wrong_step_leads_into_the_water_and_the_way_out_of_it_to_the_same_stone() -> None:
    chain = Chain(length=4, stones=10)
    good, out = chain.right(9, False), chain.right(9, True)
    assert good != out
    bad = next(move for move in ("left", "ahead", "right") if move not in (good, out))
    end = walked(chain, 9, [out, bad, f" {out.title()}", good])
    assert [m.content for m in end.messages if m.role == "user"] == [
        "You stand on stone 9.",
        "You are in the water at 9.",
        "You are in the water at 9.",
        "You stand on stone 9.",
    ]
    assert end.memory["wrong"] == [True, True, False, False] and end.memory["wet"] == [False, True, True, False] and end.memory["stone"] == 0


def test_the_responses_are_walks_without_a_wrong_step() -> None:
    chain = Chain(length=6, stones=15)
    train, test = chain.tasks("train"), chain.tasks("test")
    assert {t.id for t in test} == {"4", "9", "14"} and len(train) == 12
    for task in (*train, *test):
        moves = [m.content for m in task.responses[0].messages if m.role == "assistant"]
        end = walked(chain, int(task.id), moves)
        assert end.messages == (*task.prompt, *task.responses[0].messages) and not any(end.memory["wrong"])
    assert {chain.right(stone, False) for stone in range(15)} == {"left", "ahead", "right"}
