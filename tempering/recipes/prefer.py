"""Preference tuning on chosen/rejected pairs with any paired loss: `--loss simpo`, or `temper run simpo`.

Every file of `methods/objectives` that says `FAMILY = "pairs"` is a loss of this recipe. A reference is made only where the loss asks for one: the
starting model, with LoRA by switching the adapter off. Runs by the method's own name also take the defaults that its file sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._family import train

FAMILY = "pairs"
if TYPE_CHECKING:
    AnyPairs = Any
else:
    AnyPairs = choices.family(FAMILY)


def prefer(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyPairs = choices.choice("dpo")(),
    reference: Literal["auto", "live", "cached"] = "auto",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on chosen/rejected pairs with a paired loss.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-pairs is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of a pair.
        reference: live computes the reference's log-probs beside the policy's, with a frozen copy where the scope has no switch; cached computes them
            once before training; auto is live for adapters and cached otherwise. Losses without a reference never make one.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    loss = choices.value(loss)
    run = Experiment.begin(prefer, {**locals(), "loss": loss})
    return on_pairs(run, loss.build())


def on_pairs(run: Experiment, objective: Any) -> Report:
    """The steps of an opened run on pairs, whatever the loss; rows have what it asks for beside the two answers."""
    from tempering import data

    asked = frozenset().union(*objective.needs.values(), objective.needs)
    makers = {"corrected": data.corrected_row, "revised": data.changed_row, "chosen_quality": data.quality_row, "score": data.scored_pair_row}
    return train(run, objective, next((make for name, make in makers.items() if name in asked), data.pair_row))
