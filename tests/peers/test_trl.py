"""Equality with TRL 1.16.0 on the same rows: SFTTrainer's and DPOTrainer's loss, gradients and logged metrics, and the weights after three AdamW
steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.config import Optimizer, Schedule, Training
from tempering.fit import fit
from tempering.layout import collate
from tempering.methods.objectives.dpo import DPO
from tempering.methods.objectives.kto import KTO
from tempering.methods.objectives.nll import NLL
from tempering.methods.scopes.full import Full
from tempering.types import Parts, Role, Row, Run
from tests.conftest import make_llama
from tests.peers.harness import (
    PAIR_METRICS,
    Step,
    assert_same,
    check_trl,
    completions,
    function_step,
    our_step,
    trl_step,
    trl_trainer,
)

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("micro", [None, 60])
def test_sft_loss_and_gradients_equal_trl(tmp_path: Path, layout: str, micro: int | None) -> None:
    _, theirs = check_trl("sft", NLL(), tmp_path, layout=layout, micro=micro, seed=0)
    assert sum(int(row["train"][0].weight.sum()) for row in theirs.rows) > 20


def test_three_sft_steps_with_accumulation_end_at_trl_s_weights(tmp_path: Path) -> None:
    model = make_llama()
    adamw = {"optim": "adamw_torch", "lr_scheduler_type": "constant", "learning_rate": 1e-3, "adam_beta2": 0.999, "weight_decay": 0.0}
    run = {"max_steps": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 1.0, "save_strategy": "no", "logging_steps": 1}
    trainer = trl_trainer("sft", tmp_path, model, seed=0, **adamw, **run)
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
            rows: list[Row] = [row for batch in batches[2 * run.step : 2 * run.step + 2] for row in completions(batch)]
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
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_loss_gradients_and_metrics_equal_trl(tmp_path: Path, layout: str, beta: float) -> None:
    check_trl("dpo", DPO(beta=beta), tmp_path, metrics=PAIR_METRICS, layout=layout, micro=70, beta=beta)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_dpo_with_label_smoothing_equals_trl_s_two_terms(tmp_path: Path, layout: str) -> None:
    """TRL's "robust" is ((1 - s) f(margin) - s f(-margin)) / (1 - 2 s): our two terms with another sign, so it checks each of ours."""
    model, reference, s = make_llama(seed=1), make_llama(seed=2), 0.2
    theirs = trl_step("dpo", tmp_path, model, reference, beta=0.3, loss_type="robust", label_smoothing=s)
    plain = our_step(DPO(beta=0.3), theirs.rows, model, reference, layout=layout)
    mixed = our_step(DPO(beta=0.3, label_smoothing=s), theirs.rows, model, reference, layout=layout)

    def robust(a: Any, b: Any) -> Any:
        return (2 * (1 - s) * a - b) / (1 - 2 * s)

    grads = {name: robust(grad, mixed.gradients[name]) for name, grad in plain.gradients.items()}
    assert_same(Step(robust(plain.loss, mixed.loss), grads, plain.metrics), theirs, PAIR_METRICS)


def test_the_harness_itself_notices_a_difference(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="loss: ours"):
        check_trl("dpo", DPO(beta=0.3), tmp_path, beta=0.1)
    with pytest.raises(AssertionError, match="margin: ours"):
        check_trl("dpo", DPO(beta=0.1), tmp_path, metrics={"margin": "rewards/chosen"}, beta=0.1)


@pytest.mark.parametrize(("kind", "parts"), [("cpo", {"chosen", "rejected"}), ("orpo", {"chosen", "rejected"}), ("kto", {"train", "kl"})])
def test_other_trainers_steps_are_read_as_rows(tmp_path: Path, kind: str, parts: set[str]) -> None:
    """Objectives for these come with their own tests; here: the step runs, and its rows hold the log-probs that it logged."""
    model, reference = make_llama(seed=1), make_llama(seed=2)
    step = trl_step(kind, tmp_path, model, reference)
    assert {part for row in step.rows for part in row} == parts and len(step.gradients) > 10
    if kind == "kto":
        labels = [row["train"][0].extras["label"] for row in step.rows]
        assert set(labels) == {0.0, 1.0}
        rows: list[Row] = [{"train": row["train"]} for row, label in zip(step.rows, labels, strict=True) if label]
        logged, objective = -step.metrics["logps/chosen"], NLL(norm="segments")
    else:
        rows = [{"train": row["chosen"]} for row in step.rows]
        logged, objective = -step.metrics["logps/chosen"], NLL(norm="segments" if kind == "cpo" else "segment_mean")
    assert our_step(objective, rows, model).loss == pytest.approx(logged, rel=1e-5)


def test_a_plain_function_is_a_peer_too(tmp_path: Path) -> None:
    model, reference = make_llama(seed=1), make_llama(seed=2)
    rows = trl_step("dpo", tmp_path, model, reference).rows

    def dpo(logps: Mapping[str, Tensor], references: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        ratio_S = {part: (logps[part] - references[part]).sum(1) for part in logps}
        return -F.logsigmoid(0.1 * (ratio_S["chosen"] - ratio_S["rejected"])).mean()

    assert_same(our_step(DPO(), rows, model, reference), function_step(dpo, model, reference, rows), tolerance=2e-5)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 1.5, "undesirable_weight": 0.5}])
def test_kto(tmp_path: Path, weights: dict[str, float]) -> None:
    ours = KTO(beta=0.3, desirable=weights.get("desirable_weight", 1.0), undesirable=weights.get("undesirable_weight", 1.0))
    check_trl("kto", ours, tmp_path, metrics={"kl": "kl"}, beta=0.3, **weights)
