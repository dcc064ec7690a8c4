"""Environments: tasks that are held out, what they pay, records with any reward, and conversations that nobody can score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError

from tempering import choices
from tempering.errors import UserError
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.environments.records import Records
from tempering.methods.probes.episode_reward import EpisodeReward
from tempering.methods.probes.pass_at_k import PassAtK, majority
from tempering.methods.rewards.judged import Judged
from tempering.rollouts.acting import Group
from tempering.rollouts.types import State, Trajectory, Turn
from tempering.types import Message, Policy, Record
from tests.conftest import make_llama, make_tokenizer


class Length(Judged):
    """Pays a letter a cent, and does not know what to make of silence."""

    kind: Literal["length"] = "length"  # type: ignore[assignment]

    def __call__(self, prompts: Sequence[Any], answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
        assert [record.prompt for record in records] == list(prompts)
        return np.array([len(answer) / 100 if answer else np.nan for answer in answers])


def played(task: Record, answer: str) -> Trajectory:
    return Trajectory(task, (Turn((1,), (2, 3), (-0.5, -0.5), answer, True),), (0.0,), State(task.prompt).said(answer, done=True))


def test_arithmetic_pays_for_the_last_number_alone() -> None:
    env = Arithmetic(digits=2)
    (task,) = env.tasks("test", 1)
    right = task.tags["answer"]
    answers = (right, f"12 + 3 = 15. Answer: {right}", f"{right} or 7", "", "seven", right + ".5", right + "0")
    assert env.judge([played(task, answer) for answer in answers]).tolist() == [1, 1, 0, 0, 0, 0, 0]
    partly = Arithmetic(digits=2, wrong=0.1)
    assert partly.judge([played(task, answer) for answer in answers]).tolist() == [1, 1, 0.1, 0, 0, 0, 0.1] and not partly.binary
    train, test = ({record.id for record in env.tasks(split)} for split in ("train", "test"))  # type: ignore[arg-type]
    assert not train & test and len(test) > 100


def test_records_of_any_data_are_scored_with_their_record(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": f"{i}"} for i in range(30)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = Records(data=str(tmp_path / "said.jsonl"), reward=Judged(model="nowhere"), system="Be brief.")
    env = env.model_copy(update={"reward": Length(model="")})
    train, test = env.tasks("train"), env.tasks("test")
    assert (len(train), len(test)) == (27, 3) and not {r.prompt for r in train} & {r.prompt for r in test}
    assert train[0].prompt[0] == Message("system", "Be brief.") and env.name == "said, length"
    assert env.judge([played(train[0], "four"), played(train[1], "")]) == pytest.approx([0.04, np.nan], nan_ok=True)
    assert len(env.tasks("train", 5)) == 5


def test_data_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        Records(data="nothing.jsonl", reward=Judged(model="m")).tasks("train")


def test_what_nobody_can_score_takes_no_part() -> None:
    task = Record((Message("user", "x"),), ())
    group = Group([played(task, "a"), played(task, "b")], [np.array([0.0, 1.0]), np.array([0.0, np.nan])])
    assert [trajectory.answer for trajectory in group.known().played] == ["a"] and group.known().score_N.tolist() == [1.0]


def test_a_task_that_nobody_can_score_is_not_measured() -> None:
    class Some(Arithmetic):
        """Knows nothing of some tasks."""

        unknown: int = 1

        def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
            return np.array([np.nan] * self.unknown + [0.5] * (len(played) - self.unknown))

    policy = Policy(make_llama(), make_tokenizer())
    scores = EpisodeReward(environment=Some(), n=3, max_new_tokens=2)(policy)
    assert [item.id for item in scores.items] == [task.id for task in Arithmetic().tasks("test", 3)[1:]]
    assert {item.score for item in scores.items} == {0.5}
    with pytest.raises(UserError, match="none of its 3 test tasks can be scored"):
        EpisodeReward(environment=Some(unknown=3), n=3, max_new_tokens=2)(policy)


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    """By enumeration, for every number of right ones among six, and for other rewards; the formula of the paper beside it."""

    class Given(Arithmetic):
        """Pays what it was told to."""

        paid: tuple[float, ...] = ()

        def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
            return np.array(self.paid * (len(played) // len(self.paid)))

    policy, n = Policy(make_llama(), make_tokenizer()), 6
    for right in range(n + 1):
        for k in range(1, n + 1):
            paid = tuple(float(i < right) for i in range(n))
            (item,) = PassAtK(environment=Given(paid=paid), n=1, k=k, samples=n, max_new_tokens=1)(policy).items
            assert item.score == pytest.approx(mean([max(some) for some in combinations(paid, k)]))
            assert item.score == pytest.approx(1 - comb(n - right, k) / comb(n, k)) and item.extra["pass@1"] == pytest.approx(right / n)
    (item,) = PassAtK(environment=Given(paid=(0.5, -1.0, 2.0)), n=1, k=2, samples=3, max_new_tokens=1)(policy).items
    assert item.score == pytest.approx((0.5 + 2 + 2) / 3)
    with pytest.raises(ValidationError, match="at least k attempts"):
        PassAtK(environment=Given(), k=4, samples=3)


def test_the_majority_is_of_final_answers() -> None:
    final = Arithmetic().final
    said = [final(answer) for answer in ("3 + 4 = 7", "7", "8", "no idea", "it is 8 or 7.")]
    assert said == ["7", "7", "8", "", "7"] and majority(said, [1, 1, 0, 0, 1]) == 1
    assert majority(["7", "8", "8", "7", ""], [1, 0, 0, 1, 0]) == 0.5 and Records(reward=Judged(model="m")).final(" Yes\n") == "Yes"


def test_an_override_of_a_kind_takes_that_kinds_defaults() -> None:
    found = choices.over(GroupRelative(epsilon=0.5), "credit", {"credit.kind": "gae", "credit.gamma": 0.9, "other.kind": "x"})
    assert (found.kind, found.gamma, found.lambda_) == ("gae", 0.9, 0.95)
    assert choices.over(GroupRelative(epsilon=0.5), "credit", {"credit.scale": "none"}) == GroupRelative(epsilon=0.5, scale="none")
