"""Direct preference optimisation: prefer the chosen answer to the rejected one, without a reward model.

Rafailov et al. 2023, arXiv 2305.18290 (`methods/objectives/dpo.py`). The reference is the starting model: with LoRA the adapter is switched off, so
no second copy is held; `reference="cached"` computes its log-probs once before training. The steps
are those of `prefer`; this recipe keeps the loss's fields as its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes.prefer import on_pairs

if TYPE_CHECKING:
    DPOLoss = Any
else:
    DPOLoss = choices.choice("dpo")


def dpo(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: DPOLoss = choices.choice("dpo")(),
    reference: Literal["auto", "live", "cached"] = "auto",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on chosen/rejected pairs with the DPO loss.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-pairs is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: the loss's fields (paper: beta 0.1); those after label_smoothing go with every loss on pairs.
        reference: live computes the reference's log-probs beside the policy's, with a frozen copy where the scope has no switch; cached computes them
            once before training; auto is live for adapters and cached otherwise.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    loss = choices.value(loss)
    run = Experiment.begin(dpo, {**locals(), "loss": loss})
    return on_pairs(run, loss.build())
