"""T1: what is dropped and penalised, an anchor that follows, and answers that are forced after a budget of thinking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering import models
from tempering.config import Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.fit import fit
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.environments.arithmetic import Arithmetic
from tempering.methods.environments.guess import Guess
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.objectives.t1 import T1
from tempering.methods.probes.episode_reward import EpisodeReward
from tempering.methods.probes.thinking_budget import ThinkingBudget
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.rollouts.anchored import Anchored, Following
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.spoilt import repeats, spoilt
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, State, Trajectory, Turn
from tempering.types import Message, Objective, Policy, Record, Role, Run
from tests.conftest import make_llama, make_tokenizer

TOKENIZER = make_tokenizer()
WHOLE: Any = Full()


class Letters(Environment):
    """Pays by the ids that were sampled; for every second task nothing."""

    equal: bool = False

    @property
    def name(self) -> str:
        return "letters"

    def tasks(self, split: str, n: int | None = None) -> Sequence[Record]:
        return tuple(Record((Message("user", f"say {word}"),), (), source=word) for word in ("the", "red", "fox", "and"))[:n]

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        paid = [0.0 if self.equal or one.task.source in ("the", "fox") else sum(one.turns[0].ids) / 1000 for one in played]
        return np.array(paid)


def stream(env: Environment | None = None, training: Training | None = None, **settings: Any) -> Conversations:
    env, training = env or Letters(), training or Training(batch_size=4, precision="fp32", micro_tokens=256)
    given = Rollouts(**{"samples": 3, **settings})
    return Conversations(TOKENIZER, env, env.tasks("train"), LeaveOneOut(), given, training=training, max_new_tokens=6, seed=7)


# ------------------------------------------------------------------------------------------------------------------------ what is out of form


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([1] * 15, False),
        ([1] * 16, True),
        ([1, 2] * 8, True),
        ([1, 2, 1, 2, 1, 2, 1, 2], False),
        ([1, 2, 3, 4, 5] * 3 + [1, 2, 3, 4], False),
        ([1, 2, 3, 4, 5] * 4, True),
        ([9, 8, 7, *[1, 2, 3, 4, 5] * 4, 6], True),
        (list(range(64)) * 4, True),
        (list(range(65)) * 5, False),
        ([], False),
    ],
)
def test_a_stretch_that_stands_four_times_in_a_row_is_a_repetition(ids: list[int], told: bool) -> None:
    assert repeats(ids) == told


def test_what_is_cut_off_repeats_itself_or_is_no_text_is_spoilt_and_pays() -> None:
    def played(*turns: tuple[list[int], str, bool]) -> Trajectory:
        made = tuple(Turn((1,), tuple(ids), (0.0,) * len(ids), text, finished) for ids, text, finished in turns)
        return Trajectory(Record((), ()), made, (0.0,) * len(made), State(()))

    good = ([5, 6], "fine", True)
    every = [played(good), played(good, ([5], "cut", False)), played(([4] * 20, "aa", True), good), played(([5], "\ufffd", True))]
    assert spoilt(every).tolist() == [0, 1, 1, 1]
    made, plain = (stream(spoilt=price).acting._earned([one]) for price in (0.5, 0.0) for one in (every[1],))
    assert float(plain[0].sum() - made[0].sum()) == 0.5 and made[0].tolist()[:-1] == plain[0].tolist()[:-1]


def test_groups_that_all_earned_the_same_are_dropped_whole() -> None:
    kept, dropped = (stream(drop=drop).next(Run({"policy": _live()}, 0, 0))["rollout"] for drop in (False, True))
    heard = {int(g) for g, s in zip(kept.group_S, range(kept.num_segments), strict=True) if kept.extras["advantage"][kept.segment_T == s].any()}
    weighed = {int(dropped.group_S[s]) for s in dropped.segment_T[dropped.weight_T != 0].unique()}
    assert len(heard) == 2 and weighed == heard and dropped.num_segments == 2 * 3 + 2
    for group in heard:
        ours, theirs = (batch.group_S[batch.segment_T] == group for batch in (dropped, kept))
        assert torch.equal(dropped.ids_T[ours], kept.ids_T[theirs]) and torch.equal(
            dropped.extras["advantage"][ours], kept.extras["advantage"][theirs]
        )


def test_a_step_of_equal_rewards_moves_nothing_whatever_the_loss_asks_beside() -> None:
    model = make_llama()
    before = {name: p.clone() for name, p in model.named_parameters()}
    for drop in (True, False):
        _fit({"policy": Role(model, WHOLE)}, T1(entropy=1.0, kl=0.1), stream(Letters(equal=True), drop=drop), steps=1)
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters()) == drop


# ------------------------------------------------------------------------------------------------------------------------------------- the anchor


def _live() -> Any:
    from tempering.signals import Live

    return Live(make_llama())


def _fit(roles: dict[str, Role], objective: Objective, made: Any, steps: int, **more: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    seen: list[Any] = []
    how: Any = {"optimizer": Optimizer(lr=1e-2), "schedule": Schedule(name="constant", warmup=0), "say": lambda _: None, "on_metrics": seen.append}
    how["training"] = Training(batch_size=4, precision="fp32", micro_tokens=256)
    done = fit(roles, objective, made, steps=steps, **{**how, **more})
    held = {
        f"{name}/{key}": p.detach().clone() for name, role in done.roles.items() if role.handle is not None for key, p in role.handle.params.items()
    }
    return held, seen


def _anchored(mu: float, scope: Any, steps: int = 3, **more: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    roles = {"policy": Role(make_llama(), scope), "reference": Role(make_llama(), Following(scope))}
    return _fit(roles, T1(kl=0.3), Anchored(stream(training=more.get("training")), mu), steps, **more)


@pytest.mark.parametrize("scope", [WHOLE, LoRA(r=2)], ids=["full", "lora"])
def test_an_anchor_that_stays_is_the_start_and_one_that_keeps_up_is_the_policy(scope: Any) -> None:
    fixed, seen = _anchored(0.0, scope)
    plain, alike = _fit({"policy": Role(make_llama(), scope)}, T1(kl=0.3), stream(), 3)
    assert all(torch.equal(fixed[name], p) for name, p in plain.items()), "no anchor: the start model is the reference"
    assert [row["kl"] for row in seen] == [row["kl"] for row in alike] and seen[2]["kl"] > 1e-6
    assert "reference.grad_norm" not in seen[2]
    _, level = _anchored(1.0, scope)
    assert [row["kl"] for row in level] == pytest.approx([0, 0, 0], abs=1e-9)
    between = [row["kl"] for row in _anchored(0.5, scope)[1]]
    assert 0 < between[2] < seen[2]["kl"]


def test_only_the_average_moves_an_anchor() -> None:
    before = dict(make_llama().named_parameters())
    fixed, _ = _anchored(0.0, WHOLE)
    assert all(torch.equal(fixed[f"reference/{name}"], p) for name, p in before.items())


def test_without_bonus_and_with_an_anchor_that_stays_it_is_rloo() -> None:
    ours, _ = _fit({"policy": Role(make_llama(), WHOLE)}, T1(entropy=0.0, kl=0.3), stream(), 2)
    theirs, _ = _fit({"policy": Role(make_llama(), WHOLE)}, RLOO(kl=0.3), stream(), 2)
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())


@pytest.mark.parametrize("scope", [WHOLE, LoRA(r=2)], ids=["full", "lora"])
def test_a_killed_run_goes_on_with_its_anchor_to_the_same_bits(scope: Any, tmp_path: Path) -> None:
    training = Training(batch_size=4, precision="fp32", micro_tokens=256, save_every=1)

    def dies(metrics: Any) -> None:
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    expected, _ = _anchored(0.25, scope, 5, training=training, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _anchored(0.25, scope, 5, training=training, folder=tmp_path / "killed", on_metrics=dies)
    resumed, rest = _anchored(0.25, scope, 5, training=training, folder=tmp_path / "killed", resume=True)
    assert rest[0]["step"] > 1 and rest[-1]["step"] == 5
    assert any(name.startswith("reference/") for name in expected) and all(torch.equal(p, resumed[name]) for name, p in expected.items())


# ----------------------------------------------------------------------------------------------------------------------------- inference scaling


def test_an_answer_is_forced_after_a_budget_of_thinking() -> None:
    policy, env = models.load("builtin:tiny", say=lambda _: None), Arithmetic()
    whole = ThinkingBudget(environment=env, budget=60, n=12)(policy)
    greedy = EpisodeReward(environment=env, max_new_tokens=60, n=12)(policy)
    assert whole.summary["forced"] == 0 and [(i.id, i.score, i.output) for i in whole.items] == [(i.id, i.score, i.output) for i in greedy.items]
    cut = ThinkingBudget(environment=env, budget=3, cue=" So: 7", answer_tokens=1, n=12)(policy)
    assert cut.summary["forced"] == 1 and all(" So: 7" in item.output for item in cut.items)
    tokens = [len(policy.tokenizer(item.output.partition(" So: 7")[0], add_special_tokens=False)["input_ids"]) for item in cut.items]
    assert max(tokens) <= 3 and all(a.output.startswith(b.output.partition(" So: 7")[0]) for a, b in zip(greedy.items, cut.items, strict=True))
    with pytest.raises(UserError, match="several turns"):
        ThinkingBudget(environment=Guess(), budget=3, n=1)(Policy(make_llama(), TOKENIZER))
