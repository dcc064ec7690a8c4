"""Supervised fine-tuning on what a method makes of the data: `--make lema`, or `temper run lema`.

Every file of `methods/streams` that says `FAMILY = "lessons"` is a value of this recipe. Records are split first; what is made of those to train on
lies in the run folder (`made/records.jsonl`). Methods that train in phases (a review, a replay) do so within one run: one schedule, one optimizer
state. Measured are the held-out records as they are, or as the method makes them where it changes what is asked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams import AnyLessons
from tempering.methods.streams.r_tuning import RTuning
from tempering.recipes.sft import AnyTokens

FAMILY = "lessons"


def teach(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    limit: int | None = None,
    make: AnyLessons = RTuning(),
    teacher: str | None = None,
    loss: AnyTokens = choices.choice("nll")(),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fine-tune on demonstrations that a method makes of the data.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of what the method needs (its page says what); builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 records, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own (templates that rewrite earlier turns), or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of the model itself, for methods that ask it.
        limit: read at most this many rows.
        make: what is made of the records.
        teacher: the model that answers, for methods that ask one; by default the start model.
        loss: what is wanted of the scored tokens.
        scope: which weights may move: full or lora.
        seed: of the split, of what is made, of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import sft_row

    loss = choices.value(loss)
    run = Experiment.begin(teach, {**locals(), "loss": loss})
    return on_made(run, sft_row, make, loss.build(), train_on=train_on)


def on_made(run: Experiment, row: Any, make: Any, objective: Any, **how: Any) -> Report:
    """The steps of an opened run on made records, whatever makes them; what else it needs stands in the run's values."""
    from tempering.data.streams import Phases, Shuffled
    from tempering.lessons import lessons, steps_by_phase

    v, training = run.values, run.values["training"]
    policy = run.load(v["model"], template=v["template"])
    asked = run.beside("teacher", v["teacher"]) if v.get("teacher") else policy
    phases, measured = lessons(run, asked, make)
    how = {"max_length": v["max_length"], **how}
    train = [run.made_rows("train" if len(phases) == 1 else f"train {i + 1}", phase, row, **how) for i, phase in enumerate(phases)]
    held = run.made_rows("test", measured, row, **how)
    before = run.measure("before", policy, held)
    if any("reference.logp" in names for names in objective.needs.values()) and v["scope"].kind != "lora":
        *train, held = run.cache_reference(policy, *train, held)
    if len(train) == 1:
        tuned = run.fit("fit", policy, objective, train[0], held)
    else:
        steps = steps_by_phase([len(rows) for rows in train], training.batch_size, training.epochs, training.steps)
        stream = Phases([(Shuffled(rows, training.batch_size, v["seed"]), n) for rows, n in zip(train, steps, strict=True)])
        tuned = run.fit("fit", policy, objective, [row for rows in train for row in rows], held, (stream, sum(steps)))
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)
