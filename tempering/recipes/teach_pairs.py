"""Preference tuning on pairs that a method makes of feedback: `--make ultrafeedback`, or `temper run ultrafeedback`.

Every file of `methods/streams` that says `FAMILY = "comparisons"` is a value of this recipe; ratings, rankings, labels and conditions become pairs.
Any paired loss learns from them (`prefer`). The steps are those of `teach`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams import AnyComparisons
from tempering.methods.streams.ultrafeedback import UltraFeedback
from tempering.recipes.prefer import AnyPairs
from tempering.recipes.teach import on_made

FAMILY = "comparisons"


def teach_pairs(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    limit: int | None = None,
    make: AnyComparisons = UltraFeedback(),
    loss: AnyPairs = choices.choice("dpo")(),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on pairs that a method makes of feedback of any kind.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of feedback (rated answers, pairs, labels; the method's page says what); builtin:demo-pairs has pairs.
        test: held-out feedback; by default 10% of the data, at most 200 records, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of the model itself, for methods that ask it.
        limit: read at most this many rows.
        make: what is made of the records.
        loss: what is wanted of a pair; a reference is live for adapters and cached otherwise.
        scope: which weights may move: full or lora.
        seed: of the split, of what is made, of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import pair_row

    loss = choices.value(loss)
    run = Experiment.begin(teach_pairs, {**locals(), "loss": loss})
    return on_made(run, pair_row, make, loss.build())
