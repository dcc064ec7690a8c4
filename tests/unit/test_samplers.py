"""Sampling that runs ahead: every round exactly as old as was asked, each visit once, the same run whoever samples, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tempering.config import Optimizer, Schedule
from tempering.errors import UserError
from tempering.fit import Means, fit
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.rollouts import acting
from tempering.rollouts.acting import Acting
from tempering.rollouts.play import Begun
from tempering.rollouts.rows import SAMPLED
from tempering.rollouts.samplers import Beside, Here, Wait
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Environment, Trajectory
from tempering.signals import Engine, Live, compute
from tempering.types import Role, Run
from tests.conftest import ROOT, make_llama, make_tokenizer
from tests.nursery import Nursery, nursery
from tests.unit.test_rollouts import TRAINING, Echo

TOKENIZER = make_tokenizer()
ECHO = Echo(turns=1)
FULL: Any = Full()


class Watched(Here):
    """Samples here, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []

    def submit(self, acting: Acting, model: torch.nn.Module, version: int, begin: int, begun: Sequence[Begun] = ()) -> Wait:
        self.asked.append((version, begin))
        return super().submit(acting, model, version, begin, begun)


def stream(by: Any = None, rounds: int | None = None, environment: Environment = ECHO, **settings: Any) -> Conversations:
    given = Rollouts(**{"samples": 3, **settings})
    return Conversations(
        TOKENIZER, environment, environment.tasks("train"), GroupRelative(), given,
        training=TRAINING, max_new_tokens=6, seed=7, samplers=by, rounds=rounds,
    )  # fmt: skip


def trained(made: Conversations, steps: int, scope: Any = FULL) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The trained weights, and what every step logged."""
    rows: list[dict[str, Any]] = []
    done = fit(
        {"policy": Role(make_llama(), scope)}, GRPO(), made, steps=steps, optimizer=Optimizer(lr=1e-2), training=TRAINING,
        schedule=Schedule(name="constant", warmup=0), say=lambda _: None, on_metrics=lambda m: rows.append(dict(m)),
    )  # fmt: skip
    return {name: p.detach().clone() for name, p in done.roles["policy"].handle.params.items()}, rows  # type: ignore[union-attr]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_round_is_asked_for_so_many_versions_before_it_is_learned_from() -> None:
    watched = Watched()
    _, rows = trained(stream(watched, rounds=6, staleness=2), 6)
    assert watched.asked == [(0, 0), (0, 2), (0, 4), (1, 6), (2, 8), (3, 10)], "two tasks a round, none twice, none that nobody learns from"
    assert [row["staleness"] for row in rows] == [0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_batch_has_the_log_probs_of_the_weights_that_sampled_it(staleness: int) -> None:
    models, made = [make_llama(seed=seed) for seed in range(4)], stream(staleness=staleness)
    for version, model in enumerate(models):
        parts = made.next(Run({"policy": Live(model)}, version, 0))
        batch, own = parts["rollout"], parts["rollout"].weight_T != 0
        for who, other in enumerate(models):
            with torch.no_grad():
                logp = compute({"policy": Live(other)}, parts, {"rollout": frozenset({"logp"})}, Engine())["rollout"]["logp"]
            off = float((logp - batch.extras[SAMPLED]).abs()[own].max())
            assert (off < 1e-4) == (who == max(0, version - staleness))


def test_without_staleness_nothing_is_other_than_it_was() -> None:
    plain, rows = trained(stream(), 4)
    bounded, _ = trained(stream(rounds=4), 4)
    stale, later = trained(stream(staleness=1), 4)
    assert same(plain, bounded) and not same(plain, stale)
    assert "staleness" not in rows[0] and later[0]["loss"] == rows[0]["loss"] and later[0]["old_kl"] < 1e-6 < later[2]["old_kl"]


@pytest.mark.parametrize("settings", [{"staleness": 2}, {"staleness": 1, "updates": 2}, {"staleness": 1, "dynamic": True}])
def test_a_killed_run_goes_on_with_the_rounds_that_were_ahead(settings: dict[str, Any], tmp_path: Path) -> None:
    expected, _ = trained(stream(rounds=7, **settings), 7)

    def watch(metrics: Any) -> None:
        if metrics["step"] == 4:
            raise KeyboardInterrupt

    often = TRAINING.model_copy(update={"save_every": 1})
    first, second = Watched(), Watched()
    common: dict[str, Any] = dict(steps=7, optimizer=Optimizer(lr=1e-2), training=often, schedule=Schedule(name="constant", warmup=0))
    common |= {"folder": tmp_path, "say": lambda _: None}
    with pytest.raises(KeyboardInterrupt):
        fit({"policy": Role(make_llama(), FULL)}, GRPO(), stream(first, rounds=7, **settings), on_metrics=watch, **common)
    done = fit({"policy": Role(make_llama(), FULL)}, GRPO(), stream(second, rounds=7, **settings), resume=True, **common)
    assert same(expected, dict(done.roles["policy"].handle.params))  # type: ignore[union-attr]
    whole = Watched()
    trained(stream(whole, rounds=7, **settings), 7)
    # What the first asked for after its last checkpoint is asked for again, of the same weights; all else once.
    assert set(first.asked) | set(second.asked) == set(whole.asked) and len(whole.asked) == len({begin for _, begin in whole.asked})
    assert len(first.asked) + len(second.asked) - len(whole.asked) <= 1


def test_a_round_survives_json_to_the_bit() -> None:
    class Unknown(Echo):
        def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
            return np.array([np.nan if i == 1 else 0.1 * i for i in range(len(played))])

    made = stream(environment=Unknown())
    played = made.acting(make_llama(), 3)
    tries, again = played.tries, acting.from_json(json.loads(json.dumps(acting.to_json(played)))).tries
    assert [[(g.played, g.greedy) for g in groups] for groups in again] == [[(list(g.played), g.greedy) for g in groups] for groups in tries]
    for one, other in zip(tries[0], again[0], strict=True):
        for a, b in zip(one.reward, other.reward, strict=True):
            np.testing.assert_array_equal(a, b)


def test_advantages_are_corrected_by_a_truncated_ratio_of_trainer_to_sampler() -> None:
    first, second = make_llama(seed=0), make_llama(seed=1)
    plain, fixed, log = stream(staleness=1), stream(staleness=1, correction=1.2), Means()
    for made in (plain, fixed):
        made.next(Run({"policy": Live(first)}, 0, 0))
    roles = {"policy": Live(second)}
    before, after = plain.next(Run(roles, 1, 0))["rollout"], fixed.next(Run(roles, 1, 0, log))["rollout"]
    own = before.weight_T != 0
    with torch.no_grad():
        logp = compute(roles, {"rollout": before}, {"rollout": frozenset({"logp"})}, Engine())["rollout"]["logp"]
    ratio = torch.exp(logp - before.extras[SAMPLED]).clamp(max=1.2)
    assert 0 < (ratio[own] == 1.2).float().mean() < 1
    torch.testing.assert_close(after.extras["advantage"][own], (before.extras["advantage"] * ratio)[own], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.extras["old_logp"][own], logp[own], atol=1e-5, rtol=0)
    assert log.means()["truncated"] == pytest.approx(float((ratio[own] == 1.2).float().mean()))


# -------------------------------------------------------------------------------------------------------------------------------- other processes


class Deadly(Echo):
    """Ends the process that plays it, unless that is `home`, as often as there are files in a folder."""

    folder: str
    home: int

    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        for path in sorted(Path(self.folder).iterdir()) if os.getpid() != self.home else ():
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().judge(played)


class Broken(Echo):
    def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
        raise UserError("nobody can judge this")


@pytest.fixture
def beside() -> Any:
    pytest.importorskip("ray")
    made = Beside(2)
    yield made
    made.close()


@pytest.mark.slow
def test_samplers_in_other_processes_give_the_same_run_and_one_that_dies_is_replaced(beside: Beside, tmp_path: Path) -> None:
    deadly = Deadly(turns=1, folder=str(tmp_path), home=os.getpid())
    expected, _ = trained(stream(rounds=4, staleness=1), 4, LoRA(r=2))
    for name in ("first", "second"):
        (tmp_path / name).touch()
    found, rows = trained(stream(beside, rounds=4, environment=deadly, staleness=1, samplers=2), 4, LoRA(r=2))
    assert not list(tmp_path.iterdir()), "two samplers died at work"
    assert same(expected, found) and [row["staleness"] for row in rows] == [0, 1, 1, 1]


@pytest.mark.slow
def test_without_staleness_it_is_the_synchronous_run(beside: Beside) -> None:
    found, rows = trained(stream(beside, rounds=3, samplers=2, updates=2), 6)
    assert same(found, trained(stream(updates=2), 6)[0])
    assert [row.get("waited", 0) > 0 for row in rows] == [True, False] * 3


@pytest.mark.slow
def test_what_goes_wrong_while_sampling_elsewhere_is_told_in_its_own_words(beside: Beside) -> None:
    with pytest.raises(UserError, match="nobody can judge this"):
        stream(beside, environment=Broken(turns=1)).next(Run({"policy": Live(make_llama())}, 0, 0))


def act_on(path: str, at: str, broken: bool, count: int) -> int:
    """A run whose samplers are on a cluster, in a process of its own: its weights in a file, or what it said."""
    made, environment = Beside(count, at), Broken(turns=1) if broken else ECHO
    try:
        save_file(trained(stream(made, rounds=3, environment=environment, staleness=1, samplers=count), 3, LoRA(r=2))[0], path)
    except UserError as error:
        Path(path).write_text(str(error))
    finally:
        made.close()
    return 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Nursery, str]]:
    """A Ray cluster of two cores that no run started: who may act on it, and its address."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Ray asks for a token of those who come from elsewhere.
        for name, value in {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "2", f"--port={port}"]
        command += ["--include-dashboard=false", "--min-worker-port=0", "--max-worker-port=0"]
        head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        assert head.stdout is not None
        assert any("This command will now block" in line for line in head.stdout), "Ray does not start"
        with nursery() as children:
            yield children, f"127.0.0.1:{port}"
        head.terminate()
        head.communicate()


@pytest.mark.slow
def test_samplers_on_a_cluster_give_the_same_run(cluster: tuple[Nursery, str], tmp_path: Path) -> None:
    children, at = cluster
    children.run(f"{__name__}:act_on", str(tmp_path / "weights"), at, False, 2)
    assert same(load_file(tmp_path / "weights"), trained(stream(rounds=3, staleness=1), 3, LoRA(r=2))[0])
    children.run(f"{__name__}:act_on", str(tmp_path / "said"), at, True, 1)
    assert (tmp_path / "said").read_text() == "nobody can judge this"


@pytest.mark.slow
def test_a_cluster_without_room_is_told(cluster: tuple[Nursery, str], tmp_path: Path) -> None:
    children, at = cluster
    children.run(f"{__name__}:crowded", str(tmp_path / "said"), at)
    assert "it has no room for 3 samplers (each takes a core); take fewer --samplers" in (tmp_path / "said").read_text()


def crowded(path: str, at: str) -> int:
    """More samplers than the cluster has cores."""
    from tempering.distributed import ray

    ray.START_S = 5.0
    return act_on(path, at, False, 3)


def test_where_samplers_run_is_checked_before_anything_else() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="say how many with samplers"):
        Rollouts(samplers_at="ray://head:10001")
    with pytest.raises(UserError, match=r"--samplers-at 127.0.0.1:1: no Ray cluster can be reached there"):
        stream(Beside(1, "127.0.0.1:1")).next(Run({"policy": Live(make_llama())}, 0, 0))
