"""One step of a peer and one step of ours on the same tiny model and rows: loss, gradients, logged metrics.

A loss type of a TRL trainer is one line:

    check_trl("dpo", DPO(beta=0.3), tmp_path, metrics=PAIR_METRICS, beta=0.3, loss_type="sigmoid")

The first word names a row of `TRAINERS` (sft, dpo, kto, cpo, orpo, reward); keyword arguments go to the trainer's config; `layout` and `micro` say
how ours is run. `metrics` maps our logged names to the peer's. What needs more than equality takes the pieces apart: `trl_step` gives the peer's
loss, gradients, metrics and the very rows it saw as ours, `our_step` runs an objective on rows, `assert_same` compares two steps.

A peer's plain function is compared by `function_step`: it is given padded log-probs [S, L] of both models by part, and returns the loss.

Where a peer's definition differs, the caller mends rows or objective in the open (and its docstring says so): nothing here hides a difference.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempering.fit import Means, count_terms, total
from tempering.layout import collate, split
from tempering.methods.scopes.full import Full
from tempering.signals import Engine, Live
from tempering.types import Objective, Role, Row, Segment
from tests.conftest import make_llama, make_tokenizer

WORDS = ["the", "red", "fox", "runs", "and", "sees", "an", "old", "house", "where", "nine", "men", "sing", "in", "rain"]
PAIR_METRICS = {
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
}
"""Ours -> TRL's, for the objectives on pairs."""


@dataclass(frozen=True)
class Step:
    """What one step gave: the loss, the gradient of every parameter that took part, logged means, and the rows it saw."""

    loss: float
    gradients: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    rows: tuple[Row, ...] = ()


def texts(seed: int, num: int) -> list[tuple[str, str, str]]:
    """Prompt, a good and a bad answer of uneven lengths."""
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    return [(some(1, 9), " " + some(1, 12), " " + some(1, 5)) for _ in range(num)]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the gradients of all parameters that have one."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------------------------------------------------ a peer's batch as our rows


def segments(ids: Tensor, mask: Tensor, attention: Tensor, extras: Sequence[Mapping[str, float]] | None = None) -> list[Segment]:
    """Rows of a padded batch as our segments: padding dropped, the completion mask as weights (a segment's first token has none).

    Args:
        ids, mask, attention: [S, L].
        extras: numbers by segment.
    """
    columns = extras or [{} for _ in ids]
    return [
        Segment(i[a.bool()].numpy().astype(np.int32), m[a.bool()].float().numpy() * (np.arange(int(a.sum())) > 0), dict(extra))
        for i, m, a, extra in zip(ids, mask, attention, columns, strict=True)
    ]


def completions(batch: Mapping[str, Any]) -> list[Row]:
    """SFTTrainer's batch: part "train"."""
    attention = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    return [{"train": (s,)} for s in segments(batch["input_ids"], batch["labels"] != -100, attention)]


def pairs(batch: Mapping[str, Any]) -> list[Row]:
    """A batch of pairs, in halves (DPOTrainer) or by prefix (CPOTrainer, ORPOTrainer): parts "chosen" and "rejected"."""
    if "chosen_input_ids" in batch:
        sides = [segments(batch[f"{s}_input_ids"], batch[f"{s}_labels"] != -100, batch[f"{s}_attention_mask"]) for s in ("chosen", "rejected")]
    else:
        both = segments(batch["input_ids"], batch["completion_mask"], batch["attention_mask"])
        sides = [both[: len(both) // 2], both[len(both) // 2 :]]
    return [{"chosen": (c,), "rejected": (r,)} for c, r in zip(*sides, strict=True)]


def unpaired(batch: Mapping[str, Any]) -> list[Row]:
    """KTOTrainer's batch: "train" with a column "label" (1 desirable, 0 not), and "kl", the mismatched answers, where there are any."""
    labels = [{"label": float(x)} for x in batch["label"]]
    rows: list[Row] = [{"train": (s,)} for s in segments(batch["input_ids"], batch["completion_mask"], batch["attention_mask"], labels)]
    if "KL_input_ids" not in batch:
        return rows
    other = segments(batch["KL_input_ids"], batch["KL_completion_mask"], batch["KL_attention_mask"])
    return [{**row, "kl": (s,)} for row, s in zip(rows, other, strict=True)]


def rewarded(batch: Mapping[str, Any]) -> list[Row]:
    """RewardTrainer's batch: whole texts in halves, all tokens weighed, for a reward is read at the last one; a column "margin" if it has one."""
    ones = torch.ones_like(batch["input_ids"])
    columns = [{"margin": float(m)} for m in batch["margin"]] * 2 if "margin" in batch else None
    both = segments(batch["input_ids"], ones, batch["attention_mask"], columns)
    half = len(both) // 2
    return [{"chosen": (c,), "rejected": (r,)} for c, r in zip(both[:half], both[half:], strict=True)]


# --------------------------------------------------------------------------------------------------------------------------------- a peer's trainer


def _paired_data(seed: int) -> list[dict[str, Any]]:
    return [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in texts(seed, 8)]


def _single_data(seed: int) -> list[dict[str, Any]]:
    return [{"prompt": p, "completion": c} for p, c, _ in texts(seed, 16)]


def _labelled_data(seed: int) -> list[dict[str, Any]]:
    return [{"prompt": p, "completion": (c, r)[i % 3 == 1], "label": i % 3 != 1} for i, (p, c, r) in enumerate(texts(seed, 8))]


def _compared_data(seed: int) -> list[dict[str, Any]]:
    return [{"chosen": p + c, "rejected": p + r, "margin": 0.3 * (i % 4)} for i, (p, c, r) in enumerate(texts(seed, 8))]


@dataclass(frozen=True)
class Trainer:
    """Where a TRL trainer lives, what it trains on, and how its batch is read."""

    module: str
    name: str
    data: Callable[[int], list[dict[str, Any]]]
    read: Callable[[Mapping[str, Any]], list[Row]]
    reference: bool = False
    settings: Mapping[str, Any] | None = None


TRAINERS = {
    "sft": Trainer("trl", "SFT", _single_data, completions, settings={"completion_only_loss": True}),
    "dpo": Trainer("trl", "DPO", _paired_data, pairs, reference=True),
    "kto": Trainer("trl", "KTO", _labelled_data, unpaired, reference=True),
    "reward": Trainer("trl", "Reward", _compared_data, rewarded),
    "cpo": Trainer("trl.experimental.cpo", "CPO", _paired_data, pairs, settings={"max_length": 512}),
    "orpo": Trainer("trl.experimental.orpo", "ORPO", _paired_data, pairs, settings={"max_length": 512}),
}


def trl_trainer(
    kind: str, folder: Path, model: nn.Module, reference: nn.Module | None = None, *, seed: int = 1, batch: int = 4, **settings: Any
) -> Any:
    """A TRL trainer on copies of the models, with no dropout, no reporting and no cut rows.

    Args:
        kind: a row of `TRAINERS`.
        reference: for the trainers that take one.
        seed: of the texts.
        settings: for the trainer's config.
    """
    from datasets import Dataset

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = os.environ["WANDB_DISABLED"] = "true"
    row = TRAINERS[kind]
    module = importlib.import_module(row.module)
    common: dict[str, Any] = {"per_device_train_batch_size": batch, "report_to": "none", "use_cpu": True, "bf16": False, "max_length": None,
                              "gradient_checkpointing": False, "disable_tqdm": True, "seed": 3}  # fmt: skip
    args = getattr(module, f"{row.name}Config")(output_dir=str(folder), **(common | dict(row.settings or {}) | settings))
    made = getattr(module, f"{row.name}Trainer")
    extra = {"ref_model": copy.deepcopy(reference)} if row.reference else {}
    data = Dataset.from_list(row.data(seed))
    return made(copy.deepcopy(model), args=args, train_dataset=data, processing_class=make_tokenizer(None), **extra)


def trainer_step(trainer: Any, read: Callable[[Mapping[str, Any]], list[Row]]) -> Step:
    """The first batch of a trainer through its own loss and backward pass."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    logged = getattr(trainer, "_metrics", None) or getattr(trainer, "_stored_metrics", {})
    metrics = {name: float(np.mean([float(v) for v in values])) for name, values in logged.get("train", {}).items()}
    return Step(loss.item(), gradients(trainer.model), metrics, tuple(read(batch)))


def trl_step(kind: str, folder: Path, model: nn.Module, reference: nn.Module | None = None, **settings: Any) -> Step:
    """One step of a TRL trainer (see `trl_trainer`); `model` itself stays as it is."""
    return trainer_step(trl_trainer(kind, folder, model, reference, **settings), TRAINERS[kind].read)


def function_step(
    loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]], Tensor],
    model: nn.Module,
    reference: nn.Module | None,
    rows: Sequence[Row],
) -> Step:
    """A peer's plain function, on log-probs of plain forward passes, one sequence at a time.

    Args:
        loss: (log-probs, reference log-probs, masks), each part -> [S, L] padded with 0 on the right, to the step's loss.
    """
    model = copy.deepcopy(model)

    def logps(of: nn.Module, segment: Segment) -> Tensor:
        ids = torch.as_tensor(segment.ids, dtype=torch.long)
        logp_TV = of(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
        mask = torch.as_tensor(segment.weight[1:] != 0)
        return torch.where(mask, logp_TV[:-1].gather(1, ids[1:, None])[:, 0], 0.0)

    pad = torch.nn.utils.rnn.pad_sequence
    by_part = {part: [s for row in rows for s in row[part]] for part in rows[0]}
    mine = {part: pad([logps(model, s) for s in found], batch_first=True) for part, found in by_part.items()}
    with torch.no_grad():
        theirs = {part: pad([logps(reference, s) for s in found], batch_first=True) for part, found in by_part.items()} if reference else {}
    masks = {part: pad([torch.as_tensor(s.weight[1:] != 0) for s in found], batch_first=True) for part, found in by_part.items()}
    value = loss(mine, theirs, masks)
    value.backward()
    return Step(value.item(), gradients(model), {}, tuple(rows))


# ------------------------------------------------------------------------------------------------------------------------------- ours, and equality


def our_step(
    objective: Objective,
    rows: Sequence[Row],
    model: nn.Module,
    reference: nn.Module | None = None,
    *,
    layout: str = "packed",
    micro: int | None = None,
) -> Step:
    """One step of an objective over the rows, as `fit` takes it, on copies of the models."""
    model, parts = copy.deepcopy(model), collate(rows)
    roles = {"policy": Live.attach(Role(model, Full()))}
    if reference is not None:
        roles["reference"] = Live.attach(Role(copy.deepcopy(reference)))
    log = Means()
    micros = [(lambda m=m: m) for m in split(parts, micro)]
    loss = total(roles, objective, micros, count_terms(objective, [parts]), 0, Engine(layout), log)  # type: ignore[arg-type]
    return Step(loss, gradients(model), log.means(), tuple(rows))


def assert_same(ours: Step, theirs: Step, metrics: Mapping[str, str] | None = None, tolerance: float = 1e-4) -> None:
    """Loss, gradients (relative to each parameter's largest, or 1) and the metrics named, ours -> theirs, agree to `tolerance`."""
    assert abs(ours.loss - theirs.loss) <= tolerance * max(1.0, abs(theirs.loss)), f"loss: ours {ours.loss}, theirs {theirs.loss}"
    assert ours.gradients.keys() == theirs.gradients.keys() and len(theirs.gradients) > 10
    assert max(float(grad.abs().max()) for grad in theirs.gradients.values()) > 10 * tolerance, "gradients too small to tell anything"
    for name, grad in theirs.gradients.items():
        worst = float((ours.gradients[name] - grad).abs().max())
        assert worst <= tolerance * max(1.0, float(grad.abs().max())), f"gradient of {name}: {worst} apart"
    for mine, other in (metrics or {}).items():
        a, b = ours.metrics[mine], theirs.metrics[other]
        assert abs(a - b) <= tolerance * max(1.0, abs(b)), f"{mine}: ours {a}, theirs ({other}) {b}"


def check_trl(
    kind: str,
    objective: Objective,
    folder: Path,
    *,
    metrics: Mapping[str, str] | None = None,
    layout: str = "packed",
    micro: int | None = None,
    tolerance: float = 1e-4,
    **settings: Any,
) -> tuple[Step, Step]:
    """One step of a TRL trainer and one of `objective` on its rows are the same; gives both (ours, theirs).

    Args:
        kind: a row of `TRAINERS`.
        metrics: our logged name -> TRL's.
        layout, micro: how ours is run.
        settings: for the trainer's config, and `seed` and `batch` (see `trl_trainer`).
    """
    model, reference = make_llama(seed=1), make_llama(seed=2) if TRAINERS[kind].reference else None
    theirs = trl_step(kind, folder, model, reference, **settings)
    ours = our_step(objective, theirs.rows, model, reference, layout=layout, micro=micro)
    assert_same(ours, theirs, metrics, tolerance)
    return ours, theirs
