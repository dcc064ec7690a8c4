"""UniMC: any question with options, each judged in a branch of its own behind the common question.

Yang et al. 2022, arXiv 2210.08590 (`methods/objectives/unimc.py`). A record's answers are its options, the best one is right; classifications name
their classes in `options`. Held-out questions are scored by which share of the wrong options lies below the right one ("held_order").
"""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import Annotated

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._family import train

FAMILY = "options"


def unimc(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    options: tuple[str, ...] = (),
    max_length: int = 1024,
    limit: int | None = None,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn to say yes to the right one of several options.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of prompts with several answers of which one is best (pairs, rated responses), or, with `options`, of
            demonstrations whose answer is one of them; builtin:demo-pairs is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        options: what every question is asked with; by default the record's own answers.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        scope: which weights may move: full or lora.
        seed: of the split, of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import options_row

    if len(set(options)) == 1:
        raise UserError(f"unimc: {options[0]!r} is the only option; give at least two, or none to take the record's own answers")
    run = Experiment.begin(unimc, locals())
    run.values = {**run.values, "reference": "auto"}
    row = update_wrapper(partial(options_row, options=options), options_row)
    row.__name__ = f"options_row{list(options)}"
    return train(run, choices.choice("unimc")().build(), row)
