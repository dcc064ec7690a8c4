"""Supervised fine-tuning: teach a model to answer as the rows do.

The loss is the negative log-likelihood of the assistant's tokens, averaged over the step's tokens (`methods/objectives/nll.py`), or any objective
whose file says `FAMILY = "tokens"`. Ends with a ledger:
what the task gained, and what of a fixed battery was kept and lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

FAMILY = "tokens"
if TYPE_CHECKING:
    AnyTokens = Any
else:
    AnyTokens = choices.family(FAMILY)


def sft(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyTokens = choices.choice("nll")(),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    new_tokens: tuple[str, ...] = (),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fine-tune on demonstrations with the next-token loss.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of conversations, instructions, prompt/completion rows or texts; builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own (templates that rewrite earlier turns), or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of the scored tokens.
        scope: which weights may move: full or lora.
        new_tokens: tokens to add to the vocabulary; their embeddings start at the mean and are trained and saved.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import sft_row

    loss = choices.value(loss)
    run = Experiment.begin(sft, {**locals(), "loss": loss})
    policy = run.load(model, new_tokens, template=template)
    train, held = run.rows(data, test, sft_row, shape=shape, limit=limit, max_length=max_length, train_on=train_on)
    before = run.measure("before", policy, held)
    tuned = run.fit("fit", policy, loss.build(), train, held)
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)
