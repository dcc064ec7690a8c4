"""Rounds that end before every conversation is over: the rest goes on from the very token where it stood, none lost, none learned from twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.config import Optimizer, Schedule
from tempering.errors import UserError
from tempering.fit import Means, fit
from tempering.methods.credits.greedy_baseline import GreedyBaseline
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.scopes.full import Full
from tempering.rollouts.acting import begun_from_json, begun_to_json
from tempering.rollouts.play import How, go_on, opened, play
from tempering.rollouts.samplers import Beside
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import State
from tempering.signals import Live
from tempering.types import Policy, Record, Role, Run
from tests.conftest import make_llama, make_tokenizer
from tests.unit.test_rollouts import TRAINING, Echo

TOKENIZER = make_tokenizer()
HOW = How(7, seed=3, concurrent=4)
FULL: Any = Full()


class Uneven(Echo):
    """Conversations of one to three turns."""

    async def reset(self, task: Record) -> State:
        return State(task.prompt, memory={"left": 1 + len(task.prompt[0].content) % 3})


def stream(by: Any = None, credit: Any = None, environment: Any = None, **settings: Any) -> Conversations:
    given, environment = Rollouts(**{"samples": 3, "concurrent": 4, "partial": 2, **settings}), environment or Uneven()
    return Conversations(
        TOKENIZER, environment, environment.tasks("train"), credit or GroupRelative(), given, training=TRAINING, max_new_tokens=7, seed=7, samplers=by
    )


def visits() -> list[tuple[int, Record]]:
    return list(enumerate(Uneven().tasks("train")))


def test_what_goes_on_under_the_same_weights_is_what_would_have_been() -> None:
    policy = Policy(make_llama(), TOKENIZER)
    whole = play(policy, Uneven(), visits(), 2, HOW)
    found, left, inside, looks = dict[int, Any](), opened(visits(), 2), 0, 0
    while left:
        groups, left = go_on(policy, Uneven(), left, HOW, 1)
        assert len(groups) == 1 and not groups.keys() & found.keys()
        found |= groups
        inside += sum(len(game.ids) > 0 for game in left)
        left, looks = begun_from_json(json.loads(json.dumps(begun_to_json(left)))), looks + 1
    assert looks == 5 and inside > 0, "some were left in the middle of a turn"
    for key, group in enumerate(whole):
        for one, other in zip(group, found[key], strict=True):
            assert one.turns == tuple(other.turns) or [t.ids for t in one.turns] == [t.ids for t in other.turns]
            assert one.rewards == other.rewards and one.state == other.state
            np.testing.assert_allclose([x for t in one.turns for x in t.logps], [x for t in other.turns for x in t.logps], atol=1e-4)


def test_tokens_keep_the_log_probs_of_the_weights_that_drew_them() -> None:
    first, second = make_llama(seed=0), make_llama(seed=1)
    _, left = go_on(Policy(first, TOKENIZER), Uneven(), opened(visits(), 2), HOW, 1)
    before = {(game.key, game.sample): (list(game.turns), list(game.ids), list(game.logps)) for game in left}
    groups, rest = go_on(Policy(second, TOKENIZER), Uneven(), left, HOW)
    assert not rest
    for key, group in groups.items():
        for sample, trajectory in enumerate(group):
            turns, ids, logps = before[key, sample]
            assert list(trajectory.turns[: len(turns)]) == turns
            if ids:
                turn = trajectory.turns[len(turns)]
                assert list(turn.ids[: len(ids)]) == ids and list(turn.logps[: len(ids)]) == logps
                with torch.no_grad():
                    logits = second(torch.tensor([[*turn.prompt_ids, *turn.ids]])).logits[0].log_softmax(-1)
                at = len(turn.prompt_ids) + len(ids) - 1
                own = [float(logits[at + i, token]) for i, token in enumerate(turn.ids[len(ids) :])]
                np.testing.assert_allclose(turn.logps[len(ids) :], own, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"staleness": 1}, {"partial": 1, "samples": 2}])
def test_every_task_is_learned_from_once_or_still_open(settings: dict[str, Any]) -> None:
    made, log, learned = stream(**settings), Means(), 0
    for step in range(6):
        parts = made.next(Run({"policy": Live(make_llama())}, step, 0, log))["rollout"]
        assert bool((parts.weight_T != 0).any())
        learned += 2
    still = {game.key for game in [*made._open, *(game for asked in made._ahead for game in asked.made().left)]}
    ahead = sum(len(groups) for asked in made._ahead for groups in asked.made().tries)
    visited = max([made.taken, *(asked.end for asked in made._ahead)])
    assert learned + ahead + len(still) == visited, "none lost, none twice"
    assert 0 < log.means()["carried"] < 1 and log.means()["open"] > 0


@pytest.mark.parametrize(("settings", "credit"), [({}, None), ({"staleness": 1}, None), ({"updates": 2}, GreedyBaseline())])
def test_a_killed_run_goes_on_with_what_was_open(settings: dict[str, Any], credit: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = dict(steps=6, optimizer=Optimizer(lr=1e-2), schedule=Schedule(name="constant", warmup=0), say=lambda _: None)
    expected = fit({"policy": Role(make_llama(), FULL)}, GRPO(), stream(None, credit, **settings), training=TRAINING, **common)

    def watch(metrics: Any) -> None:
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    common |= {"folder": tmp_path, "training": TRAINING.model_copy(update={"save_every": 1})}
    with pytest.raises(KeyboardInterrupt):
        fit({"policy": Role(make_llama(), FULL)}, GRPO(), stream(None, credit, **settings), on_metrics=watch, **common)
    done = fit({"policy": Role(make_llama(), FULL)}, GRPO(), stream(None, credit, **settings), resume=True, **common)
    found, wanted = (dict(x.roles["policy"].handle.params) for x in (done, expected))  # type: ignore[union-attr]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_with_nothing_extra_open_it_is_the_plain_round() -> None:
    def steps(made: Conversations) -> list[Any]:
        return [made.next(Run({"policy": Live(make_llama())}, step, 0))["rollout"].ids_T for step in range(3)]

    plain = stream(partial=0)
    assert all(torch.equal(a, b) for a, b in zip(steps(plain), steps(stream(partial=0, concurrent=64)), strict=True)) and not plain._open


def test_silent_groups_cannot_be_replaced_in_a_round_that_ends_early() -> None:
    with pytest.raises(ValueError, match="partial and dynamic"):
        Rollouts(partial=1, dynamic=True)


def test_conversations_that_live_in_another_package_cannot_be_left_open() -> None:
    class Living(Uneven):
        portable = False

    with pytest.raises(UserError, match=r"--rollouts\.partial 2: conversations of echo live in its own package"):
        stream(environment=Living())


@pytest.mark.slow
def test_samplers_in_other_processes_go_on_with_it_too() -> None:
    pytest.importorskip("ray")
    beside = Beside(2)

    def steps(by: Any) -> list[Any]:
        made, run = stream(by, staleness=1), {"policy": Live(make_llama())}
        return [made.next(Run(run, step, 0))["rollout"].ids_T for step in range(4)]

    try:
        assert all(torch.equal(a, b) for a, b in zip(steps(beside), steps(None), strict=True))
    finally:
        beside.close()
