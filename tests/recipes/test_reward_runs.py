"""Runs of the recipes that train rewards: members, generations, entropies of another model, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tempering as tp
from tempering.errors import UserError
from tempering.methods.probes.over_optimisation import _reward
from tempering.methods.rewards._saved import saved
from tempering.methods.rewards.location_aware import LocationAware
from tempering.methods.rewards.reward_model import RewardModel
from tempering.models import load

SMALL: dict[str, Any] = {"model": "builtin:tiny", "limit": 24, "steps": 2, "batch_size": 4, "max_test": 8, "precision": "fp32", "again": True}


def test_an_ensemble_is_members_that_differ_and_is_read_as_one_reward(tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = tp.run("reward_ensemble", **SMALL, members=2, how="uncertainty", penalty=2.0, lr=1e-3, out=out)
    together: Any = saved(out)
    assert (together.how, together.penalty, len(together.members)) == ("uncertainty", 2.0, 2)
    prompts, answers = ["Any tips for tea at home?"] * 2, ["Gladly! Use fresh water.", "Whatever."]
    each = np.stack([RewardModel(str(out / "model" / str(k)))(prompts, answers) for k in range(2)])
    assert np.abs(each[0] - each[1]).min() > 1e-4
    assert together(prompts, answers) == pytest.approx(each.mean(0) - 2.0 * each.var(0))
    assert _reward(str(out))(prompts, answers) == pytest.approx(together(prompts, answers))
    # What the ledger says is of both together.
    held = [json.loads((out / f"{name}.scores.json").read_text())["probes"][0]["items"] for name in ("member-0", "member-1", "after")]
    margins = np.array([[item["extra"]["margin"] for item in items] for items in held])
    assert margins.shape == (3, 8) and not np.allclose(margins[0], margins[1]) and report.ledger.probes[0].n == 8
    tokens = [json.loads((out / f"member-{k}" / "metrics.jsonl").read_text().splitlines()[-1])["tokens"] for k in range(2)]
    assert json.loads((out / "cost.json").read_text())["tokens"] == sum(tokens)


def test_a_member_that_is_there_is_not_trained_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tp.run("reward_ensemble", **SMALL, members=2, out=out)
    for name in ("ledger.json", "after.scores.json", "member-1.scores.json"):
        (out / name).unlink()
    before = (out / "model" / "0" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(out / "model" / "1")
    again = {**SMALL, "again": False}
    tp.run("reward_ensemble", **again, members=2, resume=out)
    assert (out / "model" / "0" / "model.safetensors").stat().st_mtime_ns == before and (out / "model" / "1" / "policy.json").is_file()


def test_folders_without_an_ensemble_are_refused(tmp_path: Path) -> None:
    for content in ("", "{}", '{"members": ["../x"], "how": "worst", "penalty": 1}', "[1]"):
        (tmp_path / "ensemble.json").write_text(content)
        with pytest.raises(UserError, match="is not what `temper run reward_ensemble` writes"):
            saved(tmp_path)
    (tmp_path / "ensemble.json").unlink()
    assert saved(tmp_path) == RewardModel(str(tmp_path))


def test_generations_learn_from_the_last_one_and_know_their_classes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tp.run("rfs", **SMALL, generations=1, lr=1e-3, out=out)
    names = json.loads((out / "classes.json").read_text())
    first, last = (load(str(path), say=lambda _: None).model for path in (out / "generation-0" / "model", out / "model"))
    assert [last.config.id2label[i] for i in range(len(names))] == names == sorted(names)  # type: ignore[union-attr]
    heads = [model.value_head.weight for model in (first, last)]  # type: ignore[union-attr]
    assert heads[0].shape[0] == len(names) and not torch.equal(heads[0], heads[1])  # type: ignore[arg-type]
    losses = [json.loads((out / path / "metrics.jsonl").read_text().splitlines()[0])["loss"] for path in ("generation-0", "")]
    # A new head is the same for all classes: cross-entropy log K, of which the second generation has half, beside its distillation.
    assert losses[0] == pytest.approx(np.log(len(names)), rel=1e-4) and 0.5 * losses[0] <= losses[1] < 0.6 * losses[0]


def test_one_class_is_refused_and_what_writes_nothing_has_nothing_to_keep(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"text {i}", "label": "a"}) + "\n" for i in range(9)))
    with pytest.raises(UserError, match="1 class \\(a\\); at least 2 are needed"):
        tp.run("rfs", **SMALL, data=str(tmp_path / "a.jsonl"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for name in ("rfs", "process_reward", "reward_ensemble", "segment_reward"):
        with pytest.raises(UserError, match="writes nothing"):
            tp.run(name, **SMALL, keep="default", out=tmp_path / "run")


def test_entropies_come_from_a_model_that_writes(tmp_path: Path) -> None:
    tp.run("segment_reward", **SMALL, out=tmp_path / "a")
    assert json.loads((tmp_path / "a" / "ledger.json").read_text())["probes"][0]["name"] == "held_reward"
    found = LocationAware(**json.loads((tmp_path / "a" / "location.json").read_text()))
    assert found.b_sigma > 0 and found([found.b_mu]).tolist() == [0.0]
    with pytest.raises(UserError, match="it is a reward model and writes nothing"):
        tp.run("segment_reward", **SMALL, prior=str(tmp_path / "a" / "model"), out=tmp_path / "b")


def test_a_verifier_learns_from_a_user_s_own_steps(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{i} + 1?", "completions": [f"{i} + 1 = {i + 1}", f"It is {i + 2 - i % 2}."], "labels": [True, bool(i % 2)]} for i in range(12)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tp.run("process_reward", **SMALL, data=str(tmp_path / "a.jsonl"), out=tmp_path / "run")
    (probe,) = report.ledger.probes
    assert probe.name == "held_labels" and probe.before.point == 0.5


def test_a_step_ahead_on_the_policy_s_answers_runs_and_its_answers_stay(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {**SMALL, "answers": 3, "max_new_tokens": 6, "lr": 1e-3}
    tp.run("meta_rm", **small, rate=0.1, out=out)
    kept = json.loads((out / "answers" / "answers.json").read_text())
    assert len(kept) >= 12 and all(len(of) == 3 and all(1 <= len(ids) <= 6 for ids in of) for of in kept.values())
    first, *_ = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # A new head scores all answers alike: (k - 1) / 2k.
    assert first["spread"] == pytest.approx(1 / 3) and first["loss"] == pytest.approx(np.log(2))
    plain = {**SMALL, "lr": 1e-3}
    tp.run("reward", **plain, out=tmp_path / "plain")
    tp.run("meta_rm", **small, rate=0.0, out=tmp_path / "zero")
    heads = [load(str(path / "model"), say=lambda _: None).model.value_head.weight for path in (tmp_path / "plain", tmp_path / "zero", out)]  # type: ignore[union-attr]
    assert torch.equal(heads[0], heads[1])  # type: ignore[arg-type]


def test_reward_learning_on_policy_is_the_reward_recipe_without_its_two_parts(tmp_path: Path) -> None:
    small = {**SMALL, "max_new_tokens": 6, "lr": 1e-3, "data": "builtin:demo-pairs"}
    tp.run("rlp", **small, weight=0.0, confidence=1.5, out=tmp_path / "a")
    tp.run("reward", **{k: v for k, v in small.items() if k != "max_new_tokens"}, out=tmp_path / "b")
    heads = [load(str(tmp_path / name / "model"), say=lambda _: None).model.value_head.weight for name in "ab"]  # type: ignore[union-attr]
    assert torch.equal(heads[0], heads[1])  # type: ignore[arg-type]
    assert not (tmp_path / "a" / "views").exists()
    # Everything is alike at 0, so each answer to a prompt is in one cluster; at 1 words must be the same.
    tp.run("rlp", **small, alike=1.0, confidence=0.0, samples=3, out=tmp_path / "c")
    made = [json.loads(line) for line in (tmp_path / "c" / "made" / "records.jsonl").read_text().splitlines()]
    assert sum(row["id"].endswith("/synthetic") for row in made) > 0 and (tmp_path / "c" / "views" / "answers.json").is_file()


def test_a_model_with_another_vocabulary_cannot_write_for_a_reward_model(tmp_path: Path) -> None:
    from tempering.models import save
    from tempering.types import Policy
    from tests.conftest import make_llama, make_tokenizer

    save(Policy(make_llama(), make_tokenizer()), tmp_path / "other")
    with pytest.raises(UserError, match="its tokenizer is another than the reward model's"):
        tp.run("meta_rm", **SMALL, policy=str(tmp_path / "other"), out=tmp_path / "run")


def test_two_passes_under_dropout_differ(tmp_path: Path) -> None:
    """What the contrastive loss adds at the start, where a new head's Bradley-Terry loss is log 2. An adapter that is still 0 drops nothing."""
    losses = []
    ways: tuple[dict[str, Any], ...] = ({"weight": 1.0, "dropout": 0.5}, {"weight": 1.0, "views": 1, "dropout": 0.0})
    for name, more in zip("ab", ways, strict=True):
        tp.run("contrastive_reward", **SMALL, **more, lr=3e-2, out=tmp_path / name)
        losses.append([json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5) and losses[0][0] > np.log(2)
    assert losses[0][1] != pytest.approx(losses[1][1], abs=1e-5)
