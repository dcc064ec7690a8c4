"""A run that was stopped and resumed ends with the very bits of an undisturbed one (float32, one thread)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tempering import checkpoint
from tempering.config import Optimizer, Schedule, Training
from tempering.data.streams import Shuffled, passes
from tempering.errors import Interrupted, UserError
from tempering.fit import Evaluation, Fitted, Stopper, fit
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.types import Role
from tests.toy import toy_llama, toy_rows


def run(folder: Path, *, resume: bool = False, stop_at: int | None = None, said: list[str] | None = None, scope: Full | LoRA | None = None) -> Fitted:
    stopper = Stopper()

    def watch(metrics: dict[str, float]) -> None:
        if metrics["step"] == stop_at:
            stopper("a test")

    return fit(
        {"policy": Role(toy_llama(), scope or LoRA(r=4, dropout=0.3))}, NLL(), Shuffled(toy_rows(20), 4, seed=5), steps=17,
        optimizer=Optimizer(lr=3e-3, options={"betas": [0.9, 0.95]}), schedule=Schedule(name="cosine", warmup=0.2),
        training=Training(save_every=4, micro_tokens=30, keep_checkpoints=2, precision="fp32"),
        evaluation=Evaluation(lambda: passes(toy_rows(5, seed=8), 2), every=3), folder=folder, resume=resume, seed=11,
        say=(said if said is not None else []).append, on_metrics=watch, stopper=stopper,
    )  # fmt: skip


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in fitted.roles["policy"].handle.params.items()}


def assert_same_run(a: Path, b: Path) -> None:
    def untimed(path: Path) -> list[dict[str, float]]:
        return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in (path / "metrics.jsonl").read_text().splitlines()]

    assert untimed(a) == untimed(b)
    assert [m["step"] for m in untimed(a)] == list(range(1, 18))


@pytest.mark.parametrize("stop_at", [1, 4, 6, 16])
def test_stopping_writes_a_checkpoint_and_resuming_ends_with_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    expected = weights(run(tmp_path / "a"))
    with pytest.raises(Interrupted, match=f"stopped by a test at step {stop_at} of 17"):
        run(tmp_path / "b", stop_at=stop_at)
    said: list[str] = []
    resumed = weights(run(tmp_path / "b", resume=True, said=said))
    assert f"resumed at step {stop_at}" in said
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_checkpoint_in_many_files_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights(run(tmp_path / "a", scope=Full()))
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 20_000)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", stop_at=6, scope=Full())
    files = list((tmp_path / "b" / "checkpoints" / "step-000006").glob("*.safetensors"))
    largest = max(p.numel() * p.element_size() for p in expected.values())
    assert len(files) > 3 and max(file.stat().st_size for file in files) < max(20_000, largest) + 10_000
    resumed = weights(run(tmp_path / "b", resume=True, scope=Full()))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest", "foreign"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path: Path, damage: str) -> None:
    expected = weights(run(tmp_path / "a"))
    with pytest.raises(Interrupted):
        run(tmp_path / "b", stop_at=10)
    assert checkpoint.steps(tmp_path / "b" / "checkpoints") == [8, 10]
    newest = tmp_path / "b" / "checkpoints" / "step-000010"
    (file,) = newest.glob("*.safetensors")
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "flip":
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(bytes(raw))
    elif damage == "delete":
        file.unlink()
    elif damage == "foreign":
        file.with_name("shard-00002-model-00001-of-00001.safetensors").write_bytes(file.read_bytes())
    else:
        (newest / "manifest.json").write_text("{}")
    said: list[str] = []
    resumed = weights(run(tmp_path / "b", resume=True, said=said))
    assert "step-000010" in said[0] and "using the one before it" in said[0] and said[1] == "resumed at step 8"
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, stop_at=6)
    with pytest.raises(UserError, match="belongs to other parameters"):
        run(tmp_path, resume=True, scope=Full())


def test_early_stop_keeps_the_best_weights(tmp_path: Path) -> None:
    said: list[str] = []
    rows, held = toy_rows(4), toy_rows(6, seed=3)
    done = fit({"policy": Role(toy_llama(), Full())}, NLL(), Shuffled(rows, 4), steps=60, optimizer=Optimizer(lr=1e-2),
               schedule=Schedule(name="constant", warmup=0), training=Training(precision="fp32"),
               evaluation=Evaluation(lambda: passes(held, 6), every=1, patience=4), folder=tmp_path, say=said.append)  # fmt: skip
    assert done.best is not None and done.steps == done.best["step"] + 4 < 60
    (parts,) = passes(held, 6)
    from tempering.fit import evaluate
    from tempering.signals import Engine

    again = evaluate(done.roles, NLL(), Evaluation(lambda: [parts]), Training(), Engine(), 0)
    assert again["eval.loss"] == pytest.approx(done.best["eval.loss"], abs=1e-6)
    assert f"stopped early at step {done.steps}" in said[0]
