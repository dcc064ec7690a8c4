"""Tuning on several answers to a prompt, ranked by their scores: `--loss lipo`, or `temper run lipo`.

Every file of `methods/objectives` that says `FAMILY = "ranked"` is a loss of this recipe. A prompt's answers and their scores are what it sees; equal
scores say nothing. Pairs with no scores are lists of two.
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

FAMILY = "ranked"
if TYPE_CHECKING:
    AnyRanked = Any
else:
    AnyRanked = choices.family(FAMILY)


def ranked(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-ratings",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyRanked = choices.choice("pl_dpo")(),
    reference: Literal["auto", "live", "cached"] = "auto",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on prompts with several scored answers.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of prompts with rated responses, or of pairs; builtin:demo-ratings is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of a prompt's answers and their scores.
        reference: live computes the reference's log-probs beside the policy's, with a frozen copy where the scope has no switch; cached computes them
            once before training; auto is live for adapters and cached otherwise. Losses without a reference never make one.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import listed_row

    loss = choices.value(loss)
    run = Experiment.begin(ranked, {**locals(), "loss": loss})
    return train(run, loss.build(), listed_row)
