"""The files of examples/reinforcement: five algorithms on one toy, each a file of settings that names its recipe (S070); and what of PPO is exact at
first."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempering.cli import main
from tempering.methods.credits.gae import GAE
from tempering.rollouts.types import Earned
from tests.conftest import ROOT

FILES = sorted((ROOT / "examples" / "reinforcement").glob("*.yaml"))
ALGORITHMS = {
    "ppo": ("ppo", "gae"),
    "rloo": ("rloo", "leave_one_out"),
    "reinforce_pp": ("reinforce", "returns"),
    "iterative_dpo": ("online_dpo", "leave_one_out"),
    "rejection_sampling": ("reinforce", "selected"),
}
SMALL = "--steps 2 --batch-size 2 --samples 2 --max-new-tokens 8 --max-test 4 --tasks 8 --again"


def resolved(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(shlex.split(f"run {line} --dry-run")) == 0
    return json.loads(capsys.readouterr().out)["values"]


def test_every_file_is_an_algorithm_with_its_credit_on_the_same_toy(capsys: pytest.CaptureFixture[str]) -> None:
    assert {file.stem for file in FILES} == set(ALGORITHMS)
    found = {file.stem: resolved(shlex.quote(str(file)), capsys) for file in FILES}
    assert {name: (one["algorithm"]["kind"], one["credit"]["kind"]) for name, one in found.items()} == ALGORITHMS
    for shared in ("model", "env", "max_new_tokens", "scope", "optimizer", "training", "budget"):
        assert len({json.dumps(one[shared], sort_keys=True) for one in found.values()}) == 1, shared
    assert found["iterative_dpo"]["rollouts"]["updates"] == 10 and found["reinforce_pp"]["credit"]["whiten"] is True


def test_flags_win_over_the_file_and_a_file_goes_with_its_recipe_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    file = shlex.quote(str(FILES[0]))
    assert resolved(f"{file} --algorithm.beta 0.5", capsys)["algorithm"]["beta"] == 0.5
    assert resolved(f"online_dpo --config {file}", capsys) == resolved(file, capsys)


@pytest.mark.parametrize("name", ["ppo", "rejection_sampling"])
def test_a_file_runs_and_ppo_begins_with_ratios_of_one(name: str, tmp_path: Path) -> None:
    """The first minibatch of a round was sampled by the very weights that learn from it: no ratio is clipped, none is far from 1."""
    out = tmp_path / "run"
    assert main(["run", str(ROOT / "examples" / "reinforcement" / f"{name}.yaml"), "--out", str(out), *SMALL.split()]) == 0
    first, *_ = rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and first["old_kl"] == pytest.approx(0, abs=1e-9) and first["ratio_far"] == 0
    assert first.get("clipped", 0) == 0 and ("clipped" in first) == (name == "ppo")


def test_gae_without_decay_is_what_was_earned_less_what_was_expected() -> None:
    """gamma 1 and lambda 1, 200 tokens in 20 trajectories: the advantage is the return less the value at every token."""
    draw = np.random.default_rng(0)
    trajectory_T = np.sort(draw.integers(0, 20, 200))
    reward_T, value_T = draw.normal(size=200), draw.normal(size=200)
    found = GAE(gamma=1, lambda_=1, whiten=False)(Earned(reward_T, trajectory_T, np.arange(20), value_T))
    return_T = np.concatenate([np.cumsum(reward_T[trajectory_T == i][::-1])[::-1] for i in range(20)])
    assert found["advantage"] == pytest.approx(return_T - value_T, abs=1e-12) and found["return"] == pytest.approx(return_T, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: builtin:tiny\n", "says no recipe; write a line `recipe: NAME` in it"),
        ("recipe: rlo\n", "there is no recipe 'rlo'; did you mean 'rloo'?"),
        ("recipe: rloo\nmodle: builtin:tiny\n", "modle"),
    ],
)
def test_a_file_that_names_no_recipe(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.yaml").write_text(text)
    assert main(["run", str(tmp_path / "my.yaml"), "--dry-run"]) == 2
    assert says in capsys.readouterr().err
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert "there is no file" in capsys.readouterr().err
