"""RLGAF: what the discriminator's optimum says, who sees the demonstrations, and a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tempering as tp
from tempering import models
from tempering.cli.values import Signature
from tempering.errors import UserError
from tempering.index import load_recipe
from tempering.making import answer, user
from tempering.planning.rehearse import rehearse
from tempering.recipes.rlgaf import against_samples
from tempering.types import Record

SMALL: dict[str, Any] = {"model": "builtin:tiny", "steps": 2, "batch_size": 2, "samples": 2, "max_new_tokens": 8, "max_test": 4, "keep": "none"}
SMALL |= {"precision": "fp32", "limit": 12, "judge_steps": 2, "rounds": 2, "lr": 1e-3, "warmup": 0.0}


def expected(d: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss on all pairs of a demonstration from p and a sample from q."""
    return -(p[:, None] * q[None] * F.logsigmoid(d[:, None] - d[None])).sum()


def test_the_optimum_on_pairs_is_the_log_ratio_and_pays_minus_the_divergence() -> None:
    p, q = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 0.2, 0.2, 0.1], [0.1, 0.3, 0.4, 0.2]))
    optimum = p.log() - q.log()
    for shift in (0.0, 1.7):
        d = (optimum + shift).requires_grad_()
        expected(d, p, q).backward()
        assert d.grad is not None and d.grad.abs().max() < 1e-12
    assert expected(optimum, p, q) < expected(optimum * 0.9, p, q) < expected(torch.zeros(4, dtype=torch.float64), p, q)
    assert float((q * optimum).sum()) == pytest.approx(-float((q * (q.log() - p.log())).sum()))
    # Where both are alike, every answer is paid the same, and the policy gradient with a baseline is 0.
    theta = q.log().clone().requires_grad_()
    same = p * 0 + (q.log() - q.log())
    (theta.softmax(-1) * (same - (q * same).sum())).sum().backward()
    assert theta.grad is not None and not theta.grad.any()


def test_pairs_are_a_demonstration_and_a_sample_that_says_something_else() -> None:
    policy = models.load("builtin:tiny", say=lambda _: None)
    shown = [Record((user(f"What is {a} + 12?"),), (answer(f"It is {a + 12}."),), id=str(a)) for a in range(20, 26)]
    pairs = against_samples(policy, shown, 30, 5)
    assert len(pairs) == 6 and all(
        pair.better == ((0, 1),) and pair.responses[0] == record.responses[0] for pair, record in zip(pairs, shown, strict=True)
    )
    said = [pair.responses[1].messages[0].content for pair in pairs]
    copied = [Record(record.prompt, (answer(text),), id=record.id) for record, text in zip(shown, said, strict=True)]
    assert against_samples(policy, copied, 30, 5) == [] and len(against_samples(policy, [*copied[:3], *shown[3:]], 30, 5)) == 3


def test_a_run_in_turns_goes_on_from_round_to_round(tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = tp.run("rlgaf", out=out, again=True, **SMALL)
    assert report.ledger.probes
    rows = {
        name: [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("judge-1", "judge-2", "round-1", ".")
    }
    assert [len(of) for of in rows.values()] == [2, 2, 2, 2] and "accuracy" in rows["judge-1"][0]
    assert rows["round-1"][0]["sampled_kl"] == pytest.approx(0, abs=1e-4) and rows["."][0]["sampled_kl"] != 0, "held to the start, not to the round's"
    weights = [dict(models.load(str(out / name / "model"), say=lambda _: None).model.named_parameters()) for name in ("judge-1", "judge-2")]
    assert any(not torch.equal(p, weights[1][name]) for name, p in weights[0].items())
    signature = Signature(load_recipe("rlgaf"), "rlgaf")
    assert rehearse(load_recipe("rlgaf"), signature.resolve(signature.from_python(SMALL)), lambda _: None).work.beside
    for wrong, told in (({"steps": None}, "in each round"), ({"credit": "gae"}, "needs a critic"), ({"anchor": 0.1}, "leave them at 0")):
        with pytest.raises(UserError, match=told):
            tp.run("rlgaf", out=tmp_path / "wrong", **{**SMALL, **wrong})
