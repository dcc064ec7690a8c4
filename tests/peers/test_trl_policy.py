"""Policy-gradient losses equal TRL 1.16.0's on the same answers, advantages and old log-probs: loss and gradient of every parameter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.objectives.cispo import CISPO
from tempering.methods.objectives.dapo import DAPO
from tempering.methods.objectives.dr_grpo import DrGRPO
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.gspo import GSPO
from tempering.methods.objectives.rloo import RLOO
from tempering.methods.objectives.sapo import SAPO
from tempering.rollouts.types import Earned
from tempering.types import Objective, Row, Segment
from tests.conftest import make_llama, make_tokenizer
from tests.peers.harness import Step, assert_same, gradients, our_step

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

PROMPTS, LENGTHS, WIDTH = [3, 3, 5, 5], [6, 2, 4, 7], 8


def batch() -> dict[str, torch.Tensor]:
    """Four answers to two prompts, padded as TRL pads: prompts on the left, answers on the right."""
    rng = np.random.default_rng(0)
    prompt = [rng.integers(4, 270, n) for n in (3, 5)]
    made: dict[str, list[Any]] = {name: [] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old")}
    for i, (before, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        made["prompt_ids"].append([0] * (5 - before) + prompt[i // 2].tolist())
        made["prompt_mask"].append([0] * (5 - before) + [1] * before)
        made["completion_ids"].append(rng.integers(4, 270, length).tolist() + [0] * (WIDTH - length))
        made["completion_mask"].append([1] * length + [0] * (WIDTH - length))
        made["old"].append((-5.6 + rng.normal(0, 0.4, WIDTH)).tolist())
    found = {name: torch.tensor(values) for name, values in made.items()}
    return {**found, "advantages": torch.tensor([0.7, -0.7, 1.2, -0.4])}


def rows(given: dict[str, torch.Tensor]) -> list[Row]:
    segments = []
    for i, (before, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        ids = torch.cat([given["prompt_ids"][i, -before:], given["completion_ids"][i, :length]])
        zeros = np.zeros(before, np.float32)
        old = np.concatenate([zeros, given["old"][i, :length].numpy()])
        advantage = np.concatenate([zeros, np.full(length, float(given["advantages"][i]), np.float32)])
        weight = np.concatenate([zeros, np.ones(length, np.float32)])
        segments.append(Segment(ids.numpy().astype(np.int32), weight, {"old_logp": old, "advantage": advantage}))
    return [{"rollout": tuple(segments[:2])}, {"rollout": tuple(segments[2:])}]


def trl_step(kind: str, folder: Path, model: Any, reference: Any, given: dict[str, torch.Tensor], **settings: Any) -> Step:
    import trl
    from datasets import Dataset

    common: dict[str, Any] = {"per_device_train_batch_size": 4, "num_generations": 2, "report_to": "none", "use_cpu": True, "bf16": False}
    common |= {"gradient_checkpointing": False, "disable_tqdm": True, "max_completion_length": WIDTH}
    # The reference's log-probs are given below; a trainer with one would look for its weights on the hub.
    args = getattr(trl, f"{kind}Config")(output_dir=str(folder), **{**common, **settings, "beta": 0.0})
    trainer = getattr(trl, f"{kind}Trainer")(
        copy.deepcopy(model), reward_funcs=lambda prompts, completions, **_: [0.0] * len(prompts), args=args,
        train_dataset=Dataset.from_list([{"prompt": "the"}] * 4), processing_class=make_tokenizer(None),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps, trainer.beta = 1, settings.get("beta", 0.0)
    mask = given["completion_mask"]
    inputs = {**given, "old_per_token_logps": given["old"], "old_logps": (given["old"] * mask).sum(1), "num_items_in_batch": mask.sum().float()}
    if reference is not None:
        with torch.no_grad():
            ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
            attention = torch.cat([given["prompt_mask"], mask], 1)
            logits = reference(input_ids=ids, attention_mask=attention).logits[:, -WIDTH - 1 : -1]
            inputs["ref_per_token_logps"] = logits.log_softmax(-1).gather(-1, given["completion_ids"][..., None])[..., 0]
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return Step(loss.item(), gradients(trainer.model), {})


@pytest.mark.parametrize(
    ("objective", "kind", "settings"),
    [
        (GRPO(), "GRPO", {"loss_type": "grpo"}),
        (
            GRPO(kl=0.04, clip_high=0.3),
            "GRPO",
            # TRL weighs the divergence by the ratio by default; the paper does not.
            {"loss_type": "grpo", "beta": 0.04, "epsilon_high": 0.3, "use_bias_correction_kl": False},
        ),
        (DAPO(clip_high=0.2), "GRPO", {"loss_type": "bnpo"}),
        (DrGRPO(budget=WIDTH), "GRPO", {"loss_type": "dr_grpo"}),
        (DAPO(), "GRPO", {"loss_type": "dapo", "epsilon_high": 0.28}),
        (CISPO(cap=1.3), "GRPO", {"loss_type": "cispo", "epsilon_high": 1.3}),
        (SAPO(), "GRPO", {"loss_type": "sapo"}),
        (GSPO(clip_low=0.2, clip_high=0.3), "GRPO", {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_high": 0.3}),
        (RLOO(), "RLOO", {}),
        (RLOO(clip_low=0.9, clip_high=9.0), "RLOO", {"epsilon": 0.9, "epsilon_high": 9.0}),
    ],
    ids=lambda x: f"{x['loss_type']}" if isinstance(x, dict) and "loss_type" in x else "",
)
def test_loss_and_gradient(objective: Objective, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    given, model = batch(), make_llama()
    reference = make_llama(seed=3) if "beta" in settings else None
    theirs = trl_step(kind, tmp_path, model, reference, given, **settings)
    ours = our_step(objective, rows(given), model, reference)
    assert_same(ours, theirs)


def test_advantages_are_trls() -> None:
    """GRPOTrainer: (r - mean) / (std + 1e-4) with the deviation of a sample; RLOOTrainer: (sum - r) / (k - 1) taken off."""
    scores = np.array([1.0, 0.0, 0.0, 0.5, 2.0, 2.5])
    grouped = torch.tensor(scores).view(2, 3)
    step = Earned(scores, np.arange(6), np.array([0, 0, 0, 1, 1, 1]))
    theirs = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    assert GroupRelative()(step)["advantage"] == pytest.approx(theirs.flatten().numpy())
    theirs = grouped - (grouped.sum(1, keepdim=True) - grouped) / 2
    assert LeaveOneOut()(step)["advantage"] == pytest.approx(theirs.flatten().numpy())
