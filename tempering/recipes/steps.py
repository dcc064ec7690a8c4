"""Training a verifier on labelled steps of answers, or on labelled answers: `--loss process_reward`, or `temper run process_reward`.

Every file of `methods/objectives` that says `FAMILY = "steps"` is a loss of this recipe. A step's label is learned at its last token; a label of a
whole answer at every token of it. What is saved is a transformers sequence classifier with one output, the log-odds of being right. It writes
nothing, so there is no keep battery to measure it on: the ledger says how many held-out labels it tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._family import train, writes_nothing

FAMILY = "steps"
if TYPE_CHECKING:
    AnySteps = Any
else:
    AnySteps = choices.family(FAMILY)


def steps(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-steps",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnySteps = choices.default(FAMILY, "process_reward"),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a verifier on labelled steps or answers.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; its output head is not used. A verifier is trained on.
        data: file, folder or hub id of prompts with an answer's steps ("completions") and a label for each ("labels": true, false, or a chance), of
            answers with a label true/false, or of pairs; builtin:demo-steps is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of the numbers at labelled tokens.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import stepped_row

    writes_nothing(budget, "a verifier")
    loss = choices.value(loss)
    run = Experiment.begin(steps, {**locals(), "loss": loss})
    return train(run, loss.build(), stepped_row, outputs=1)
