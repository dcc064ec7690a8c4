"""WARP: its averages are what the paper says, and where they do nothing what is left is plain reinforcement."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import tempering as tp
from tempering import models
from tempering.errors import UserError
from tempering.merging.run import draws
from tempering.methods.merges.nuslerp import NuSlerp
from tempering.methods.scopes.full import Full
from tempering.recipes.warp import merged
from tempering.rollouts.anchored import Anchored, Following
from tempering.signals import Live
from tempering.types import Role, Run
from tests.toy import toy_llama

SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "batch_size": 2, "samples": 2, "max_new_tokens": 12, "max_test": 4, "keep": "none"}
SMALL |= {"precision": "fp32", "tasks": 8, "lr": 1e-3}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(models.load(str(folder), say=lambda _: None).model.named_parameters())


def test_an_arc_keeps_the_length_that_an_average_loses() -> None:
    right = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])]
    arc = NuSlerp()(torch.zeros(2), [one.clone() for one in right], draws(0, "w"))
    assert float(arc.norm()) == pytest.approx(3) and float(sum(right).norm()) / 2 == pytest.approx(3 / math.sqrt(2))  # type: ignore[union-attr]
    for end, shares in ((0, (1.0, 0.0)), (1, (0.0, 1.0))):
        assert torch.equal(NuSlerp(weight=shares)(torch.zeros(2), [one.clone() for one in right], draws(0, "w")), right[end])


def test_the_anchor_follows_by_its_share() -> None:
    class Nothing:
        def next(self, run: Run) -> Any:
            return {}

        def state(self) -> dict[str, Any]:
            return {"at": 3}

        def load(self, state: Any) -> None:
            raise AssertionError

    policy, anchor = toy_llama(seed=0), toy_llama(seed=1)
    was = {name: p.detach().clone() for name, p in anchor.named_parameters()}
    stream, whole = Anchored(Nothing(), 0.25), cast("Any", Full())
    stream.next(Run({"policy": Live.attach(Role(policy, whole)), "reference": Live.attach(Role(anchor, Following(whole)))}, 0, 0))
    ours = dict(policy.named_parameters())
    for name, p in anchor.named_parameters():
        torch.testing.assert_close(p, 0.75 * was[name] + 0.25 * ours[name], rtol=1e-6, atol=1e-7)
    assert stream.state() == {"at": 3} and not any(p.requires_grad for p in anchor.parameters())


def test_a_run_with_its_merges(tmp_path: Path) -> None:
    report = tp.run("warp", out=tmp_path / "run", again=True, rounds=2, eta=0.5, **SMALL)
    folder = tmp_path / "run"
    assert report.ledger.probes and (folder / "start-2" / "policy.json").exists()
    start, arc, second = (weights(folder / name) for name in ("start", "arc-1", "start-2"))
    one, other = (weights(folder / f"round-1-{i}" / "model") for i in (1, 2))
    assert any(not torch.equal(one[name], other[name]) for name in one), "the runs of a round draw other samples"
    for name, p in second.items():
        torch.testing.assert_close(p, (start[name] + arc[name]) / 2, rtol=1e-5, atol=1e-7)
    rows = [json.loads(line) for line in (folder / "round-1-1" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["sampled_kl"] == pytest.approx(0, abs=1e-4) and "reference.grad_norm" not in rows[0]
    # None of the way is the start to the bit.
    assert all(torch.equal(p, start[name]) for name, p in weights(merged([folder / "start", folder / "arc-1"], None, tmp_path / "none", 0.0)).items())


def test_one_run_all_the_way_with_a_fixed_anchor_is_plain_reinforcement(tmp_path: Path) -> None:
    tp.run("warp", out=tmp_path / "warp", again=True, rounds=1, runs=1, mu=0.0, eta=1.0, **SMALL)
    plain = {**SMALL, "scope": "full", "rollouts.kl_cost": 0.05, "schedule.name": "constant", "schedule.warmup": 0.05}
    tp.run("rloo", out=tmp_path / "rl", again=True, **plain)
    ours, theirs = weights(tmp_path / "warp" / "model"), weights(tmp_path / "rl" / "model")
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())


def test_steps_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="how many steps each run has"):
        tp.run("warp", out=tmp_path / "run", again=True, **{**SMALL, "steps": None})
