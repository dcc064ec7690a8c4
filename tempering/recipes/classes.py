"""Training an embedding and a linear head on classes, and again on what the last generation says: `--loss rfs`, or `temper run rfs`.

Every file of `methods/objectives` that says `FAMILY = "classes"` is a loss of this recipe. The first generation learns the labels alone; each further
one begins with the start model again and has the one before as its teacher. What is saved is the last one, a transformers sequence classifier that
knows its classes by name; the earlier ones stay in the run folder. It writes nothing, so there is no keep battery to measure it on.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._family import writes_nothing

FAMILY = "classes"
if TYPE_CHECKING:
    AnyClasses = Any
else:
    AnyClasses = choices.family(FAMILY)


def classes(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-classes",
    test: str | None = None,
    shape: str = "auto",
    field: str = "label",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyClasses = choices.default(FAMILY, "rfs"),
    generations: Annotated[int, Field(ge=0)] = 1,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a classifier, and again from what it says itself.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; its output head is not used.
        data: file, folder or hub id of texts or prompts with a class each; builtin:demo-classes is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        field: the field with the class; rows without it have it as their answer.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut.
        limit: read at most this many rows.
        loss: what is wanted of the scores of the classes, from the second generation on.
        generations: how often a new model learns from the last one; 0 learns the labels alone.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of shuffling, dropout and initialisation.
    """
    from tempering.data import class_of, classed_row
    from tempering.types import Role

    writes_nothing(budget, "a classifier")
    loss = choices.value(loss)
    run = Experiment.begin(classes, {**locals(), "loss": loss})
    objective = loss.build()
    labels = replace(objective, hard=1.0, distil=0.0)
    names = sorted({class_of(record, field) for record in islice(run.source(data, shape, limit), limit)})
    if len(names) < 2:
        raise UserError(f"data {data}: {len(names)} class ({', '.join(names)[:80]}); at least 2 are needed")
    run.display.say(f"{len(names)} classes: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}")

    def start() -> Any:
        policy = run.load(model, template=template, outputs=len(names))
        config: Any = policy.model.config
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        return policy

    student, roles = start(), {}
    run.folder.write("classes.json", names)
    learned, held = run.rows(data, test, classed_row, shape=shape, limit=limit, max_length=max_length, classes=tuple(names), field=field)
    tuned, after = student, (before := run.measure("before", student, held, labels, held))
    for generation in range(generations + 1):
        where, to = ("fit", "model") if generation == generations else (f"generation-{generation}", f"generation-{generation}/model")
        tuned = run.fit(where, student, objective if roles else labels, learned, held, roles=roles, offset=generation, to=to)
        after = run.measure("after" if where == "fit" else where, tuned, held, labels, held)
        if where != "fit":
            student, roles = start(), {"teacher": Role(tuned.model)}
    return run.finish(tuned, before, after)
