"""Equality with TRL 1.16.0 on the same rows: SFTTrainer's and DPOTrainer's loss, gradients and logged metrics, and the weights after three AdamW
steps."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tempering.config import Optimizer, Schedule, Training
from tempering.fit import Means, count_terms, fit, total
from tempering.layout import collate, split
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.signals import Engine, Live
from tempering.types import Objective, Parts, Role, Row, Run, Segment
from tests.conftest import make_llama, make_tokenizer

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

WORDS = ["the", "red", "fox", "runs", "and", "sees", "an", "old", "house", "where", "nine", "men", "sing", "in", "rain"]


def texts(seed: int, num: int) -> list[tuple[str, str, str]]:
    """Prompt, a good and a bad answer of uneven lengths."""
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    return [(some(1, 9), " " + some(1, 12), " " + some(1, 5)) for _ in range(num)]


def segments(ids: Tensor, mask: Tensor, attention: Tensor) -> list[Segment]:
    """Rows of a TRL batch as our segments: padding dropped, the completion mask as weights."""
    return [
        Segment(i[a.bool()].numpy().astype(np.int32), m[a.bool()].float().numpy() * (np.arange(int(a.sum())) > 0))
        for i, m, a in zip(ids, mask, attention, strict=True)
    ]


def ours(objective: Objective, model: nn.Module, reference: nn.Module | None, rows: list[Row], layout: str, micro: int | None) -> Any:
    parts = collate(rows)
    roles = {"policy": Live.attach(Role(model, Full()))} | ({"reference": Live.attach(Role(reference))} if reference is not None else {})
    log = Means()
    micros = [(lambda m=m: m) for m in split(parts, micro)]
    loss = total(roles, objective, micros, count_terms(objective, [parts]), 0, Engine(layout), log)  # type: ignore[arg-type]
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, log.means()


def assert_gradients(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys() and len(mine) > 10
    for name, grad in theirs.items():
        assert float((mine[name] - grad).abs().max()) <= 1e-4 * max(1.0, float(grad.abs().max())), name


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path) -> None:
    os.environ["WANDB_DISABLED"] = "true"


def sft_trainer(model: nn.Module, tmp_path: Path, **settings: Any) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": p, "completion": c} for p, c, _ in texts(0, 16)]
    args = SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        completion_only_loss=True,
        max_length=None,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        optim="adamw_torch",
        lr_scheduler_type="constant",
        learning_rate=1e-3,
        max_grad_norm=1.0,
        adam_beta2=0.999,
        weight_decay=0.0,
        disable_tqdm=True,
        seed=3,
        **settings,
    )
    return SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=make_tokenizer(None))


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("micro", [None, 60])
def test_sft_loss_and_gradients_equal_trl(tmp_path: Path, layout: str, micro: int | None) -> None:
    model = make_llama()
    trainer = sft_trainer(copy.deepcopy(model), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    theirs = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    attention = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    rows: list[Row] = [{"train": (s,)} for s in segments(batch["input_ids"], batch["labels"] != -100, attention)]
    assert sum(int(r["train"][0].weight.sum()) for r in rows) == int((batch["labels"][:, 1:] != -100).sum()) > 20
    mine, gradients, _ = ours(NLL(), model, None, rows, layout, micro)
    assert abs(mine - loss.item()) < 1e-4
    assert_gradients(gradients, theirs)


def test_three_sft_steps_with_accumulation_end_at_trl_s_weights(tmp_path: Path) -> None:
    model = make_llama()
    trainer = sft_trainer(copy.deepcopy(model), tmp_path, max_steps=3, gradient_accumulation_steps=2, save_strategy="no", logging_steps=1)
    batches: list[Any] = []
    step = trainer.training_step
    trainer.training_step = lambda m, inputs, *a: (
        batches.append({k: v.clone() for k, v in inputs.items() if isinstance(v, Tensor)}),
        step(m, inputs, *a),
    )[1]
    trainer.train()

    class Replay:
        """The very rows that TRL saw, step by step."""

        def next(self, run: Run) -> Parts:
            two = batches[2 * run.step : 2 * run.step + 2]
            rows: list[Row] = []
            for b in two:
                attention = b.get("attention_mask", torch.ones_like(b["input_ids"]))
                rows += [{"train": (s,)} for s in segments(b["input_ids"], b["labels"] != -100, attention)]
            return collate(rows)

        def state(self) -> dict[str, Any]:
            return {}

        def load(self, state: Mapping[str, Any]) -> None:
            pass

    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses: list[float] = []
    fit({"policy": Role(model, Full())}, NLL(), Replay(), steps=3, optimizer=Optimizer(lr=1e-3), schedule=Schedule(name="constant", warmup=0),
        training=Training(precision="fp32"), say=lambda _: None, on_metrics=lambda m: losses.append(m["loss"]))  # fmt: skip
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx(logged, abs=1e-4)
    theirs = dict(trainer.model.named_parameters())
    for name, p in model.named_parameters():
        assert float((p - theirs[name]).abs().max().detach()) < 1e-4, name
        assert not torch.equal(p, start[name])


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.0), (0.3, 0.2)])
def test_dpo_loss_gradients_and_metrics_equal_trl(tmp_path: Path, layout: str, beta: float, smoothing: float) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, reference = make_llama(seed=1), make_llama(seed=2)
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in texts(1, 8)]
    # TRL's name for the conservative variant's mixture is a linear combination of its two sigmoid terms; "sigmoid" itself takes no smoothing.
    args = DPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, beta=beta, report_to="none", use_cpu=True, bf16=False, max_length=None,
                     gradient_checkpointing=False, disable_dropout=True, disable_tqdm=True,
                     loss_type="robust" if smoothing else "sigmoid", label_smoothing=smoothing)  # fmt: skip
    trainer = DPOTrainer(
        copy.deepcopy(model),
        ref_model=copy.deepcopy(reference),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(None),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    theirs = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    metrics = {name: float(np.mean(values)) for name, values in trainer._metrics["train"].items()}
    all_segments = segments(batch["input_ids"], batch["completion_mask"], batch["attention_mask"])
    half = len(all_segments) // 2
    pairs: list[Row] = [{"chosen": (c,), "rejected": (r,)} for c, r in zip(all_segments[:half], all_segments[half:], strict=True)]
    if smoothing:
        # robust = ((1 - s) * f(margin) - s * f(-margin)) / (1 - 2 s): the same two terms with another sign, so it checks each of ours.
        plain, plain_grads, log = ours(DPO(beta=beta), copy.deepcopy(model), reference, pairs, layout, None)
        mixed, mixed_grads, _ = ours(DPO(beta=beta, label_smoothing=smoothing), copy.deepcopy(model), reference, pairs, layout, None)
        mine = (2 * (1 - smoothing) * plain - mixed) / (1 - 2 * smoothing)
        gradients = {n: (2 * (1 - smoothing) * plain_grads[n] - mixed_grads[n]) / (1 - 2 * smoothing) for n in plain_grads}
    else:
        mine, gradients, log = ours(DPO(beta=beta), model, reference, pairs, layout, 70)
    assert abs(mine - loss.item()) < 1e-4
    assert_gradients(gradients, theirs)
    assert log["chosen_reward"] == pytest.approx(metrics["rewards/chosen"], abs=1e-4)
    assert log["rejected_reward"] == pytest.approx(metrics["rewards/rejected"], abs=1e-4)
    assert log["margin"] == pytest.approx(metrics["rewards/margins"], abs=1e-4)
    assert log["accuracy"] == pytest.approx(metrics["rewards/accuracies"], abs=1e-6)
