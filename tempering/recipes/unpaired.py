"""Tuning on answers marked desirable or not, without pairs: `--loss kto`, or `temper run kto`.

Every file of `methods/objectives` that says `FAMILY = "unpaired"` is a loss of this recipe. Pairs are taken apart into a desirable and an undesirable
answer. A loss that asks for the part "kl" gets each prompt with the answer of the next row that has another prompt.
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

FAMILY = "unpaired"
if TYPE_CHECKING:
    AnyUnpaired = Any
else:
    AnyUnpaired = choices.family(FAMILY)


def unpaired(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyUnpaired = choices.choice("kto")(),
    reference: Literal["auto", "live", "cached"] = "auto",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on answers that are marked desirable or undesirable.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of answers with a label true/false, or of pairs; builtin:demo-pairs is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of an answer and its label.
        reference: live computes the reference's log-probs beside the policy's, with a frozen copy where the scope has no switch; cached computes them
            once before training; auto is live for adapters and cached otherwise. Losses without a reference never make one.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import Mismatched, labelled_row

    loss = choices.value(loss)
    run = Experiment.begin(unpaired, {**locals(), "loss": loss})
    objective = loss.build()

    def mismatched(rows: Any, held: bool) -> Any:
        made = Mismatched(rows, max_length)
        run.display.say(f"{'held-out' if held else 'training'} rows: {made.sentence()}")
        return made

    return train(run, objective, labelled_row, mismatched if "kl" in objective.needs else None)
