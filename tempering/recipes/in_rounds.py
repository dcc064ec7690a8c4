"""Preference tuning in rounds, on pairs made of the model's own answers: `--make tpo`, or `temper run tpo`.

Every file of `methods/streams` that says `FAMILY = "rounds"` is a value of this recipe. Every few steps the model as it is answers the prompts again,
and the method makes new pairs of that; any paired loss learns from them (`prefer`). What a round made lies in the run folder
(`made-0/records.jsonl`, ...). Measured are pairs made of held-out records with the start model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams import AnyRounds
from tempering.methods.streams.tpo import TPO
from tempering.recipes.prefer import AnyPairs

FAMILY = "rounds"


def in_rounds(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    limit: int | None = None,
    make: AnyRounds = TPO(),
    loss: AnyPairs = choices.choice("dpo")(),
    rounds: Annotated[int, Field(ge=1)] = 4,
    every: Annotated[int, Field(ge=1)] = 10,
    reference: Literal["round", "start"] = "round",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune in rounds on pairs that a method makes of the model's own answers.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of what the method needs (its page says what); builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 records, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of the model itself.
        limit: read at most this many rows.
        make: what is made of the records in each round.
        loss: what is wanted of a pair.
        rounds: how often the model answers; the first round is the start model's.
        every: optimizer steps of a round (the settings for epochs and steps do not count here).
        reference: the loss's reference, where it has one: the model as it was when the round began, or the start model throughout.
        scope: which weights may move: full or lora.
        seed: of the split, of what is made, of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import pair_row
    from tempering.distributed import word
    from tempering.lessons import divided
    from tempering.rounds import Makers, Rounds

    loss = choices.value(loss)
    if word.several():
        raise UserError("in_rounds: the model is asked while it trains, which one process can do only; run it without --processes")
    run = Experiment.begin(in_rounds, {**locals(), "loss": loss})
    policy, objective = run.load(model, template=template), loss.build()
    records, held_records, inputs = divided(run)
    asks = any("reference.logp" in names for names in objective.needs.values())
    makers = Makers(run, policy, make, records, inputs, pair_row, asks and reference == "round", max_length=max_length)
    first = makers.first()
    held = makers.held(held_records)
    run.check(objective, first)
    before = run.measure("before", policy, held)
    if asks and reference == "round":
        first, held = run.cache_reference(policy, first, held)
    # A plan has no live model to ask again: every round looks like the first.
    again = (lambda number, live: first) if run.rehearses else makers.again
    stream = Rounds(first, again, every, training.batch_size, seed)
    tuned = run.fit("fit", policy, objective, first, held, (stream, rounds * every))
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)
