"""Reinforcement in several processes: the rounds, losses and weights of one, whoever samples and whatever is asked of the trainer's own passes."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tempering import checkpoint
from tempering.config import Optimizer, Schedule, Training
from tempering.distributed.world import World, joined
from tempering.errors import Interrupted, UserError
from tempering.fit import Stopper, fit
from tempering.methods.credits.gae import GAE
from tempering.methods.credits.greedy_baseline import GreedyBaseline
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.ppo import PPO
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.value import with_outputs
from tempering.rollouts.anchored import Anchored, Following
from tempering.rollouts.samplers import Beside, Here, Led
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Trajectory
from tempering.types import Policy, Role
from tests.conftest import make_llama, make_tokenizer
from tests.nursery import Nursery, nursery
from tests.unit.test_rollouts import Echo

STEPS = 5
END = "end.safetensors"
# A gradient that is all rounding would be a whole step in either direction.
LEARN = Optimizer(lr=3e-3, options={"eps": 1e-4})
SLOW = pytest.mark.slow

CASES: Mapping[str, dict[str, Any]] = {
    # Three tasks a round: never even on two processes. Two turns, several steps of a round.
    "grpo": {"turns": 2, "updates": 2, "epochs": 2},
    "lora": {"scope": "lora", "objective": GRPO(kl=0.1), "old": "trainer", "kl_cost": 0.1},
    "ppo": {"objective": PPO(), "credit": GAE(), "kl_cost": 0.1, "correction": 1.5},
    "anchor": {"objective": GRPO(kl=0.1), "anchor": 0.5},
    "dynamic": {"dynamic": True, "tries": 3, "samples": 2, "kinds": 2, "credit": GreedyBaseline()},
    "stale": {"staleness": 2},
    "partial": {"partial": 2, "staleness": 1, "turns": 2},
}


class Pays(Echo):
    """Pays something different for nearly every answer, or, of two kinds, as much for every other."""

    kinds: int = 7

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        return np.array([sum(map(ord, one.answer)) % self.kinds for one in played]) / self.kinds


class Counted(Pays):
    """Notes in a file whose conversations a process was shown."""

    path: str

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        with Path(self.path).open("a") as file:
            file.write(json.dumps([os.environ.get("RANK", "0"), [one.task.source for one in played]]) + "\n")
        return super().judge(played)


class Deadly(Pays):
    """Takes its process with it, where that is the second, when it is asked once more after a file is there."""

    path: str

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        if os.environ.get("RANK") == "1":
            if Path(self.path).exists():
                os.kill(os.getpid(), signal.SIGKILL)
            Path(self.path).touch()
        return super().judge(played)


class Broken(Pays):
    """Cannot judge on the second process."""

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        if os.environ.get("RANK") == "1":
            raise UserError("nobody can judge this")
        return super().judge(played)


def act(path: str, case: str, stop_at: int | None = None, tensor: int = 1, samplers: int = 0, kind: str = "") -> int:
    """What each process does."""
    folder, stopper = Path(path), Stopper()
    given = dict(CASES[case])
    scope: Any
    turns, kinds, scope = given.pop("turns", 1), given.pop("kinds", 7), LoRA(r=4) if given.pop("scope", "full") == "lora" else Full()
    objective, credit = given.pop("objective", GRPO()), given.pop("credit", GroupRelative())
    environment = {
        "": lambda: Pays(turns=turns, kinds=kinds),
        "counted": lambda: Counted(turns=turns, path=str(folder / "shown")),
        "deadly": lambda: Deadly(turns=turns, path=str(folder / "now")),
        "broken": lambda: Broken(turns=turns),
    }[kind]()
    folder.mkdir(exist_ok=True)

    def watch(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == stop_at and world.rank == world.size - 1:
            stopper("a test")

    with joined(tensor) as world:
        model = make_llama(layers=3)
        roles = {"policy": Role(model, scope)}
        if "value" in credit.asks:
            critic = with_outputs(Policy(copy.deepcopy(model), None), 1).model
            everything: Any = Full()
            roles["critic"] = Role(critic, everything, LEARN)
        if given.get("anchor"):
            roles["reference"] = Role(copy.deepcopy(model), Following(scope))
        elif given.get("kl_cost") and scope.kind == "full":
            roles["reference"] = Role(copy.deepcopy(model))
        training = Training(batch_size=3, micro_tokens=60, precision="fp32", save_every=4, clip=0.5)
        settings = Rollouts(**{"samples": 3, "samplers": samplers, **given})
        by = Led(Beside(samplers), world) if samplers else Here(world)
        stream: Any = Conversations(
            make_tokenizer(), environment, environment.tasks("train"), credit, settings, training=training, max_new_tokens=5, seed=7, samplers=by,
            rounds=STEPS,
        )  # fmt: skip
        if given.get("anchor"):
            stream = Anchored(stream, given["anchor"])
        try:
            fitted = fit(
                roles, objective, stream, steps=STEPS, optimizer=LEARN, schedule=Schedule(name="constant", warmup=0), training=training,
                folder=folder, resume=True, seed=11, say=lambda text: None, on_metrics=watch, stopper=stopper,
            )  # fmt: skip
        except Interrupted:
            return Interrupted.exit_code
        except UserError as error:
            (folder / f"said-{world.rank}").write_text(str(error))
            return UserError.exit_code
        finally:
            by.close()
        if world.first:
            ends = {f"{name}/{n}": p for name, live in fitted.roles.items() if live.handle for n, p in live.handle.params.items()}
            save_file({name: p.detach() for name, p in ends.items()}, folder / END)
    return 0


ACT = f"{__name__}:act"


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_s", "waited")} for line in lines]


def assert_same(a: Path, b: Path) -> None:
    for ours, theirs in zip(metrics(a), metrics(b), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    ours, theirs = load_file(a / END), load_file(b / END)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["grpo", *(pytest.param(case, marks=SLOW) for case in CASES if case != "grpo")])
def test_two_processes_act_and_learn_as_one(children: Nursery, tmp_path: Path, case: str) -> None:
    children.run(ACT, str(tmp_path / "one"), case)
    children.run(ACT, str(tmp_path / "two"), case, processes=2)
    rows = metrics(tmp_path / "one")
    assert len(rows) == STEPS and any(row["grad_norm"] > 1e-3 for row in rows)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_each_process_plays_its_share_of_the_tasks(children: Nursery, tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        children.run(ACT, str(tmp_path / name), "stale", None, 1, 0, "counted", processes=processes)
    assert_same(tmp_path / "one", tmp_path / "two")
    shown = {name: [json.loads(line) for line in (tmp_path / name / "shown").read_text().splitlines()] for name in ("one", "two")}
    assert [sorted({rank for rank, _ in calls}) for calls in shown.values()] == [["0"], ["0", "1"]]
    assert [sum(len(played) for rank, played in shown["two"] if rank == who) for who in "01"] == [STEPS * 2 * 3, STEPS * 1 * 3]
    every = {name: sorted(source for _, played in calls for source in played) for name, calls in shown.items()}
    assert every["one"] == every["two"], "no task twice, none left out"


@pytest.mark.parametrize(
    ("before", "after", "case"), [(2, 1, "stale"), pytest.param(1, 2, "partial", marks=SLOW), pytest.param(2, 1, "anchor", marks=SLOW)]
)
def test_another_number_of_processes_goes_on(children: Nursery, tmp_path: Path, before: int, after: int, case: str) -> None:
    children.run(ACT, str(tmp_path / "one"), case)
    children.start(ACT, str(tmp_path / "moved"), case, 3, processes=before)
    assert children.codes() == [Interrupted.exit_code] * before
    assert checkpoint.steps(tmp_path / "moved" / "checkpoints") == [3]
    children.run(ACT, str(tmp_path / "moved"), case, processes=after)
    assert_same(tmp_path / "one", tmp_path / "moved")


def test_one_that_dies_while_it_samples_ends_the_others(children: Nursery, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    children.start(ACT, str(folder), "ppo", None, 1, 0, "deadly", processes=2)
    # That this returns is the point.
    assert children.codes() == [1, -signal.SIGKILL]
    assert len(metrics(folder)) == 1, "it died in its second round"
    children.run(ACT, str(tmp_path / "one"), "ppo")
    (folder / "now").unlink()
    children.run(ACT, str(folder), "ppo", processes=2)
    assert_same(tmp_path / "one", folder)


def test_what_goes_wrong_on_one_process_is_said_by_all(children: Nursery, tmp_path: Path) -> None:
    children.start(ACT, str(tmp_path), "grpo", None, 1, 0, "broken", processes=2)
    assert children.codes() == [UserError.exit_code] * 2
    assert [(tmp_path / f"said-{rank}").read_text() for rank in range(2)] == ["process 1: nobody can judge this", "nobody can judge this"]


@pytest.mark.slow
def test_matrices_in_pieces_act_as_one(children: Nursery, tmp_path: Path) -> None:
    children.run(ACT, str(tmp_path / "one"), "lora")
    children.run(ACT, str(tmp_path / "sides"), "lora", None, 2, processes=2)
    assert_same(tmp_path / "one", tmp_path / "sides")


@pytest.mark.slow
def test_the_first_process_asks_samplers_for_all(children: Nursery, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    children.run(ACT, str(tmp_path / "one"), "stale")
    children.run(ACT, str(tmp_path / "beside"), "stale", None, 1, 1, processes=2)
    assert_same(tmp_path / "one", tmp_path / "beside")
    assert "waited" in (tmp_path / "beside" / "metrics.jsonl").read_text()


def test_work_is_spread_over_processes_and_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes one after another, each of which is told what all of them gave."""
    shares: list[Any] = []

    def gather(world: World, value: Any) -> list[Any]:
        shares.append(value) if isinstance(value, list) else None
        return [None] * 3 if value is None else [[i * i for i in range(rank, 8, 3)] for rank in range(3)]

    monkeypatch.setattr(World, "gather", gather)
    for rank in range(3):
        assert World(rank, 3).spread(range(8), lambda mine: [i * i for i in mine]) == [i * i for i in range(8)]
    assert shares == [[0, 9, 36], [1, 16, 49], [4, 25]]
