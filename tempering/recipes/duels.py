"""Training a model that is shown two answers and says which is better: `--loss pair_preference`, or `temper run pair_preference`.

Every file of `methods/objectives` that says `FAMILY = "duels"` is a loss of this recipe. Each pair is shown in both orders. What is saved is a
transformers sequence classifier; `PreferenceModel` reads it as P(y > y' | x). It writes nothing, so there is no keep battery to measure it on: the
ledger says how often it prefers the better of two held-out answers.
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

FAMILY = "duels"
if TYPE_CHECKING:
    AnyDuels = Any
else:
    AnyDuels = choices.family(FAMILY)


def duels(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyDuels = choices.default(FAMILY, "pair_preference"),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a preference model on chosen/rejected pairs.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; its output head is not used.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-pairs is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens, both answers in it; pairs over it are dropped and counted, never cut.
        limit: read at most this many rows.
        loss: what is wanted of the numbers of both orders.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import duel_row

    writes_nothing(budget, "a preference model")
    loss = choices.value(loss)
    run = Experiment.begin(duels, {**locals(), "loss": loss})
    return train(run, loss.build(), duel_row, outputs=1)
