"""Every loss of the family "forget" by its own name, for two steps: the index is walked, so a new file is run here without being named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tempering as tp
from tempering import index
from tempering.errors import UserError

LOG2 = math.log(2)
AT_START = {"npo": 2 * LOG2 / 0.1, "idk_dpo": LOG2 / 0.1, "altpo": 2 * LOG2 / 0.1}
"""Losses of log-ratios that are all 0, without a retain term."""
LOSSES = {entry.name: entry for entry in index.methods("objective") if entry.family == "forget"}
SMALL: dict[str, Any] = {
    "model": "builtin:tiny", "limit": 8, "steps": 2, "batch_size": 4, "max_test": 4, "max_new_tokens": 12,
    "keep": "none", "attacks": "none", "precision": "fp32", "r": 2, "again": True,
}  # fmt: skip


def steps_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_family_is_walked() -> None:
    assert {"gradient_ascent", "npo", "simnpo", "idk", "altpo"} <= set(LOSSES)
    assert {e.name for e in index.aliases().values() if e.family == "forget" and e.kind == "objective"} == set(LOSSES)


def mixture(folder: Path) -> str:
    """A small mixture of experts that reads as builtin:tiny does."""
    from transformers import MixtralConfig, MixtralForCausalLM

    tiny = tp.load("builtin:tiny", say=lambda _: None)
    config = MixtralConfig(
        vocab_size=1536, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, max_position_embeddings=512,
    )  # fmt: skip
    return str(tp.save(tp.Policy(MixtralForCausalLM(config).eval(), tiny.tokenizer, name="mixture"), folder))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_runs_by_its_name(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    alone: dict[str, Any] = {"retain_loss": "none"} if name in AT_START else {}
    if name == "seuf":
        with pytest.raises(UserError, match="this model has none"):
            tp.run(name, out=tmp_path / "refused", **SMALL)
        alone["model"] = mixture(tmp_path / "mixture")
    report = tp.run(name, out=out, **{**SMALL, **alone})
    metrics = steps_of(out)
    assert len(metrics) == 2 and all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in metrics)
    if name in AT_START:
        assert metrics[0]["loss"] == pytest.approx(AT_START[name], rel=1e-5)
    assert json.loads((out / "config.json").read_text())["values"]["method"]["kind"] == name
    assert (out / "model" / "policy.json").is_file() and report.ledger.probes and all(p.side == "keep" for p in report.ledger.probes)


@pytest.mark.parametrize("name", ["altpo", "random_labels"])
def test_a_full_scope_runs_too(name: str, tmp_path: Path) -> None:
    full = {key: value for key, value in SMALL.items() if key != "r"}
    tp.run(name, out=tmp_path / "run", scope="full", lr=1e-4, **full)
    assert all(row["grad_norm"] > 0 for row in steps_of(tmp_path / "run"))


def test_alternates_are_drawn_before_training_and_kept_without_questions(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tp.run("altpo", out=out, **SMALL, alternates=2)
    texts = json.loads((out / "alternates" / "alternates.json").read_text())
    assert len(texts) == 8 and all(len(set(t)) == len(t) <= 2 for t in texts) and "question" not in json.dumps(texts).lower()
    rows = json.loads((out / "lock.json").read_text())["data"]["forget"]["rows"]
    assert rows == sum(max(1, len(t)) for t in texts)


def test_texts_have_no_alternates_and_no_refusals(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text("".join(json.dumps({"text": f"A plain text, number {i}."}) + "\n" for i in range(4)))
    with pytest.raises(UserError, match="no row has a question, so there is nothing to give another answer to"):
        tp.run("altpo", out=tmp_path / "a", **SMALL, forget=str(tmp_path / "f.jsonl"))
    with pytest.raises(UserError, match="loss idk asks for a part 'refused', which rows made of this data do not have"):
        tp.run("idk", out=tmp_path / "b", **SMALL, forget=str(tmp_path / "f.jsonl"))


def test_a_plan_makes_no_model_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tempering.forgetting import oracle

    def never(*args: object, **how: object) -> None:
        raise AssertionError("a plan trained")

    monkeypatch.setattr(oracle, "learn", never)
    small = {key: SMALL[key] for key in ("limit", "steps", "batch_size", "max_new_tokens")}
    base = {"base": SMALL["model"], "until": "asked >= oracle", "look_every": 1, "shadow_models": 4}
    assert tp.plan("npo", **base, **small).peak > 0


@pytest.mark.parametrize("name", ["npo", "altpo"])
def test_a_run_can_be_planned(name: str) -> None:
    small = {key: SMALL[key] for key in ("model", "limit", "steps", "batch_size", "max_new_tokens")}
    assert tp.plan(name, **small).peak > 0
