"""Reinforcement from the command line's side: every algorithm by its name for two steps, its own credit with it, plans, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tempering as tp
from tempering import index, models
from tempering.cli.values import Signature
from tempering.errors import UserError
from tempering.index import load_recipe
from tempering.planning.rehearse import rehearse
from tempering.rollouts.types import State, Trajectory, Turn
from tempering.types import Message, Policy, Response

ALGORITHMS = [entry.name for entry in index.methods("objective") if entry.family == "policy_gradient"]
SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "batch_size": 2, "samples": 2, "max_new_tokens": 12, "max_test": 4, "keep": "none"}
SMALL |= {"precision": "fp32", "r": 2, "tasks": 8}


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=name, marks=() if name in ("grpo", "ppo", "dapo") else pytest.mark.slow) for name in ALGORITHMS]
)
def test_every_algorithm_runs_by_its_name(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = tp.run(name, out=out, again=True, **SMALL)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and all(math.isfinite(row["loss"]) for row in metrics)
    assert any(row["grad_norm"] > 0 for row in metrics)
    assert {"reward", "silent_groups", "entropy", "length", "unfinished"} <= metrics[0].keys()
    # One that drops silent groups may learn nothing at first.
    assert next(row for row in metrics if "old_kl" in row)["old_kl"] == pytest.approx(0, abs=1e-4), "the first step is on policy"
    assert ("critic.grad_norm" in metrics[0]) == (name == "ppo")
    (probe,) = report.ledger.probes
    assert (probe.name, probe.side) == ("arithmetic-add+subtract-2", "target")
    assert {"ledger.json", "report.html", "samples.json", "model"} <= {p.name for p in out.iterdir()}
    assert isinstance(models.load(str(out / "model"), say=lambda _: None), Policy)


def test_an_algorithm_brings_its_papers_credit_by_either_spelling() -> None:
    credits = {}
    for name in ALGORITHMS:
        own = Signature(load_recipe(name), name)
        rl = Signature(load_recipe("rl"), "rl")
        mine = own.resolve([])
        again = rl.resolve(rl.from_python({"algorithm": name}))
        assert mine["credit"] == again["credit"] and mine["rollouts"] == again["rollouts"]
        credits[name] = mine["credit"].kind
    assert {credits[n] for n in ("grpo", "dapo", "gspo", "gmpo", "cispo", "sapo", "dr_grpo")} == {"group_relative"}
    assert (credits["rloo"], credits["reinforce"], credits["ppo"]) == ("leave_one_out", "returns", "gae")
    dr = Signature(load_recipe("dr_grpo"), "dr_grpo").resolve([])
    assert dr["credit"].scale == "none"


def test_a_reference_holds_a_policy_whose_weights_all_train(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {**{name: value for name, value in SMALL.items() if name != "r"}, "samples": 6, "batch_size": 4, "max_new_tokens": 40}
    tp.run("rloo", out=out, again=True, **small, scope="full", kl_cost=0.1, kl=0.1, lr=1e-3)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-5) and metrics[1]["kl"] > 1e-6


def test_a_plan_takes_the_longest_conversations() -> None:
    signature = Signature(load_recipe("grpo"), "grpo")
    values = signature.resolve(signature.from_python({**SMALL, "max_new_tokens": 20}))
    found = rehearse(load_recipe("grpo"), values, lambda _: None)
    (batch,) = found.work.micro.values()
    assert batch.num_segments == 4 and float(batch.weight_T.sum()) == 4 * 20
    ppo = Signature(load_recipe("ppo"), "ppo")
    (critic,) = rehearse(load_recipe("ppo"), ppo.resolve(ppo.from_python(SMALL)), lambda _: None).work.beside.values()
    assert critic.scope is not None and critic.optimizer.lr == 1e-4, "a critic is planned as what it is: a second model that trains"


def test_what_rollouts_cannot_do_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eval-every"):
        tp.run("grpo", out=tmp_path / "run", **SMALL, eval_every=1)
    assert not (tmp_path / "run").exists()


def test_reft_warms_up_and_goes_on_from_there(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {name: value for name, value in SMALL.items() if name != "r"}
    report = tp.run("reft", out=out, again=True, **small, warmup_steps=3, attempts=2)
    warm = [json.loads(line) for line in (out / "warmup" / "metrics.jsonl").read_text().splitlines()]
    acted = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(warm) == 3 and len(acted) == 2 and acted[0]["critic.grad_norm"] > 0
    assert acted[0]["sampled_kl"] == pytest.approx(0, abs=1e-4), "the reference is the model after the warm-up"
    greedy, best = report.ledger.probes
    assert greedy.kind == best.kind == "continuous"
    assert best.metric == "pass@2" and all((best.summary["pass@1"][i] or 0) <= x for i, x in enumerate((best.before.point, best.after.point)))


def test_only_written_answers_that_earn_more_than_the_models_own_are_learned(tmp_path: Path) -> None:
    from tempering.methods.environments.arithmetic import Arithmetic
    from tempering.recipes.offline import advantages, drawn

    env, policy = Arithmetic(wrong=0.25), models.load("builtin:tiny", say=lambda _: None)
    first, second, third = env.tasks("train", 3)
    wrong = Response((Message("assistant", "Answer: 1"),))
    tasks = (replace(first, responses=(wrong, *first.responses)), replace(second, responses=(wrong,)), third)
    rows = advantages(policy, env, tasks, [0.5, 0.125, 1.0].__getitem__)
    assert [row["train"][0].extras["advantage"] for row in rows] == [0.5, 0.125]
    chosen = [row["train"][0].extras["advantage"] for row in drawn(rows, 4000, 0)]
    assert chosen.count(0.5) / 4000 == pytest.approx(0.8, abs=0.03), "in proportion to the advantage"
    with pytest.raises(UserError, match="none of its 4 written answers"):
        advantages(policy, env, tasks, lambda _: 1.0)
    small = {name: value for name, value in SMALL.items() if name not in ("r", "samples")}
    report = tp.run("a_lol", out=tmp_path / "run", again=True, **small, scope="full", value_samples=2)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["moved"] == pytest.approx(0, abs=1e-4) and metrics[1]["moved"] != 0 and report.ledger.probes[0].side == "target"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trainer_that_is_killed_leaves_no_sampler_behind_and_goes_on_to_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    small = [word for name, value in {**SMALL, "steps": 6}.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "tempering", "run", "grpo", *small, "--staleness", "1", "--save-every", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "STARTED_BY": tmp_path.name}

    def losses(folder: str) -> list[float]:
        path = tmp_path / folder / "metrics.jsonl"
        return [json.loads(line)["loss"] for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []

    def alive() -> list[Path]:
        return [path for path in Path("/proc").glob("[0-9]*/environ") if tmp_path.name.encode() in _read(path)]

    subprocess.run([*command, "--out", "whole"], cwd=tmp_path, env=env, check=True, capture_output=True)
    begun = subprocess.Popen([*command, "--out", "killed", "--samplers", "1"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    while len(losses("killed")) < 3:
        assert begun.poll() is None
        time.sleep(0.05)
    assert len(alive()) > 2
    begun.kill()
    begun.wait()
    # Ray's own processes notice it one after the other: 10 s to over a minute were seen.
    for _ in range(1800):
        if not alive():
            break
        time.sleep(0.1)
    assert not [_read(path.parent / "cmdline") for path in alive()]
    resumed = [sys.executable, "-m", "tempering", "run", "grpo", "--resume", "killed"]
    assert subprocess.run(resumed, cwd=tmp_path, env=env, capture_output=True).returncode == 0
    assert losses("killed") == losses("whole") and len(losses("whole")) == 6


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_expert_iteration_keeps_what_earns_more_than_the_bar_each_text_once() -> None:
    from tempering.methods.environments.arithmetic import Arithmetic
    from tempering.recipes.expert_iteration import better, tried

    env, policy = Arithmetic(wrong=0.25), models.load("builtin:tiny", say=lambda _: None)
    tasks = env.tasks("train", 6)
    grown = tried(policy, env, tasks, 6, 1.5, 40, seed=1)
    texts = [[one.messages[0].content for one in record.responses] for record in grown]
    assert all(len(set(own)) == len(own) for own in texts) and sum(map(len, texts)) < 36, "each text once"
    for record, own in zip(grown, texts, strict=True):
        scored = env.judge([Trajectory(record, (Turn((), (), (), text, True),), (0.0,), State(())) for text in own])
        assert [one.score for one in record.responses] == scored.tolist()
    kept = {bar: {(r.id, r.responses[0].messages) for r in better(grown, bar)} for bar in (-1.0, 0.0, 0.25, 1.0)}
    assert kept[-1.0] >= kept[0.0] > kept[0.25] > kept[1.0] == set(), "rising bars, nested sets; what earns the bar itself is out"
    assert all(len(r.responses) == 1 for r in better(grown, 0.0))


@pytest.mark.parametrize("how", [{"rounds": 2, "r": 2}, {"rounds": 1, "begin": "last", "above": (0.0, 0.5), "scope": "full"}], ids=["expert", "rest"])
def test_expert_iteration_trains_each_round_from_the_right_model(how: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {name: value for name, value in SMALL.items() if name != "r"} | {"max_new_tokens": 40, "samples": 4, "lr": 0.01, "warmup": 0.0}
    report = tp.run("expert_iteration", out=out, again=True, **small, **how, attempts=2, schedule="constant")
    first = "round-1" if "r" in how else "round-1-1"
    rates = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["lr"] for folder in (out / first, out)]
    assert rates == ([0.01, 0.01] if "r" in how else [0.01, 0.005])
    assert len(report.ledger.probes) == 2 and sorted(path.name for path in out.glob("grown-*")) == ["grown-1", "grown-2"][: how["rounds"]]
    assert all(isinstance(models.load(str(place), say=lambda _: None), Policy) for place in (out / first / "model", out / "model"))


def test_expert_iteration_refuses_what_it_cannot_do() -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (({"above": (0.5, 0.5)}, "bars that rise"), ({"begin": "last"}, "add --scope full"))
    for how, told in refused:
        with pytest.raises(UserError, match=told):
            tp.run("expert_iteration", **{name: value for name, value in SMALL.items() if name != "r"}, **how)
    signature = Signature(load_recipe("expert_iteration"), "expert_iteration")
    found = rehearse(load_recipe("expert_iteration"), signature.resolve(signature.from_python(SMALL)), lambda _: None)
    assert found.work.micro["train"].num_segments == 2


def test_say_self_gives_each_stage_its_own_questions(tmp_path: Path) -> None:
    out, rows = tmp_path / "run", [{"prompt": f"Say {i}.", "answer": str(i)} for i in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {name: value for name, value in SMALL.items() if name not in ("r", "samples")} | {"warmup": 0.0, "env": "records"}
    more = {"data": str(tmp_path / "data.jsonl"), "env.reward": "calibrated", "rollouts.samples": 2, "make.samples": 2, "lesson_steps": 3}
    tp.run("say_self_ppo", out=out, again=True, **small, **more, lr=1e-3)
    taught = [json.loads(line) for line in (out / "made" / "records.jsonl").read_text().splitlines()]
    assert len(taught) == 4 and all("Confidence: " in one["responses"][0]["messages"][0]["content"] for one in taught)
    steps = [len((out / place / "metrics.jsonl").read_text().splitlines()) for place in ("stage-1", ".")]
    acted = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert steps == [3, 2] and acted["sampled_kl"] == pytest.approx(0, abs=1e-4) and -1 <= acted["reward"] <= 1


def test_t1_runs_with_its_anchor_and_answers_that_are_forced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {**SMALL, "max_new_tokens": 40, "samples": 4, "batch_size": 3, "lr": 1e-3, "warmup": 0.0, "anchor": 0.5, "steps": 3}
    report = tp.run("t1", out=out, again=True, **small, thinking=(3, 40), cue=". Answer:")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[2]["policy_entropy"] > 0 and "reference.grad_norm" not in rows[0]
    assert [probe.name.partition(", ")[2] for probe in report.ledger.probes] == ["", "answer after 3", "answer after 40"]
    assert report.ledger.probes[0].before.point == report.ledger.probes[2].before.point >= report.ledger.probes[1].before.point
    signature = Signature(load_recipe("t1"), "t1")
    anchors = rehearse(load_recipe("t1"), signature.resolve(signature.from_python(SMALL)), lambda _: None).work.beside
    assert [*anchors] == ["reference"] and not rehearse(
        load_recipe("t1"), signature.resolve(signature.from_python({**SMALL, "kl": 0.0})), lambda _: None
    ).work.beside, "what nobody asks for is not there"
    with pytest.raises(UserError, match="is said by --mu"):
        tp.run("warp", out=tmp_path / "warp", **{**{k: v for k, v in SMALL.items() if k != "r"}, "anchor": 0.5})


def test_s2r_is_shown_conversations_and_then_paid_for_each_turn(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {name: value for name, value in SMALL.items() if name != "r"} | {"env": "verify", "env.pays": "process", "algorithm": "s2r"}
    report = tp.run("reft", out=out, again=True, **small, warmup_steps=2, attempts=1)
    warm, acted = ([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (out / "warmup", out))
    assert len(warm) == len(acted) == 2 and acted[0]["turns"] >= 2 and "critic.grad_norm" not in acted[0]
    assert json.loads((out / "config.json").read_text())["values"]["credit"]["kind"] == "reward_history"
    (probe,) = report.ledger.probes
    assert probe.name.startswith("verify, ") and -1 <= (probe.before.point or 0) <= 3
