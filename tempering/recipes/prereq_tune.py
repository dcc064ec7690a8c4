"""Prereq-Tune: first the facts that the examples need go into an adapter, then a skill is learned on top of it, and the facts are taken away again.

Liu et al. 2024, arXiv 2410.19290 (S120; ranks and epochs of the released code as the catalogue gives them). Fine-tuning on facts that a model does
not know teaches it to make facts up; here they are known while the skill is learned. Each file of `knowledge` gives an adapter of its own: several
versions of the facts, of which a row's field "knowledge" (0, 1, ...; absent is 0) says the one that it agrees with. Each step draws a version and
takes rows of it. Rows with the field "real": false are fictitious. What is measured and saved is the base with the skill.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes.lora import LoRA
from tempering.methods.scopes.stacked import Stacked

CATALOGUE = ("S120",)


def prereq_tune(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    knowledge: tuple[str, ...] = (),
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    alone: Annotated[float, Field(ge=0)] = 1.0,
    facts: LoRA = LoRA(r=32, alpha=64.0),
    facts_epochs: Annotated[float, Field(gt=0)] = 15.0,
    scope: Stacked = Stacked(r=64, alpha=128.0),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(epochs=4.0),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn facts into one adapter, then a skill on top of it into another, which is kept.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of the demonstrations of the skill; their fields "knowledge" and "real" are read.
        knowledge: files of the facts that the demonstrations need (texts, or questions with answers), one for each version; without any the skill is
            learned as `temper run sft` learns it.
        test: held-out rows of the same kind as `data`; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows of `data`; auto recognises it and says so. Those of `knowledge` are always recognised.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored of a demonstration: every assistant turn, the last, each in a sequence of its own, or all. Of the facts all is.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of `data`.
        alone: weight of the loss of real rows without the knowledge (there is no such pass without knowledge, or at 0).
        facts: the adapters of the facts.
        facts_epochs: passes over each file of facts.
        scope: the adapter of the skill; adapters beneath that are there already come before those made here.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data.streams import Drawn, Shuffled
    from tempering.methods.objectives.prereq_tune import PrereqTune

    if training.checkpointing and (knowledge or scope.beneath):
        raise UserError("prereq_tune: recomputed activations would be those of another adapter; run it without --checkpointing")
    run = Experiment.begin(prereq_tune, locals())
    policy = run.load(model, template=template)
    train, held = run.rows(data, test, _row, shape=shape, limit=limit, max_length=max_length, train_on=train_on)
    before = run.measure("before", policy, held)
    # A plan learns no facts: their adapters are a few MB.
    made = () if run.rehearses else tuple(str(_learned(run, i, file) / "adapter") for i, file in enumerate(knowledge))
    stacked = scope.model_copy(update={"beneath": (*scope.beneath, *made)})
    run.values = {**run.values, "scope": stacked}
    versions: dict[int, list[int]] = {}
    for i, row in enumerate(train):
        versions.setdefault(int(row["train"][0].extras["version"]), []).append(i)
    if stacked.beneath and (wrong := sorted(set(versions) - set(range(len(stacked.beneath))))):
        raise UserError(f"{data}: rows name knowledge {wrong[0]}, and there are {len(stacked.beneath)} files or adapters of it, numbered from 0")
    rows = [[train[i] for i in versions[number]] for number in sorted(versions)]

    def tell(live: Any, which: int) -> None:
        if stacked.beneath:
            live.roles["policy"].handle.use(sorted(versions)[which])

    stream = Drawn([Shuffled(some, training.batch_size, seed) for some in rows], [len(some) for some in rows], tell, seed)
    steps = training.steps or max(1, math.ceil(training.epochs * len(train) / training.batch_size))
    tuned = run.fit("fit", policy, PrereqTune(alone=alone if stacked.beneath else 0.0), train, held, (stream, steps))
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)


def _learned(run: Experiment, number: int, file: str) -> Path:
    """The adapter of one file of facts, trained once: a stage of the run."""
    from tempering import models
    from tempering.data import sft_row
    from tempering.data.streams import Shuffled
    from tempering.fit import fit
    from tempering.methods.objectives.nll import NLL
    from tempering.types import Policy, Role

    v, source = run.values, run.source(file, "auto", None)
    training: Training = v["training"].model_copy(update={"steps": None, "epochs": v["facts_epochs"], "save_every": 0})
    inputs = {"facts": source.fingerprint, "model": v["model"], "scope": v["facts"].model_dump(mode="json"), "seed": v["seed"]}
    inputs |= {name: v[name].model_dump(mode="json") for name in ("optimizer", "schedule")} | {"training": training.model_dump(mode="json")}

    def work(folder: Path) -> None:
        base = models.load(v["model"], say=lambda _: None)
        rows = run.made_rows(f"knowledge {number}", _Facts(file, source), sft_row, max_length=v["max_length"], train_on="all")
        steps = max(1, math.ceil(training.epochs * len(rows) / training.batch_size))
        run.display.say(f"learning the facts of {file}: {len(rows)} rows, {steps} steps")
        how = {"optimizer": v["optimizer"], "schedule": v["schedule"], "training": training, "seed": v["seed"], "say": run.display.say}
        fitted = fit({"policy": Role(base.model, v["facts"])}, NLL(), Shuffled(rows, training.batch_size, v["seed"]), steps=steps, **how)
        live = fitted.roles["policy"]
        models.save(Policy(live.model, base.tokenizer, handle=live.handle, source=base.source), folder / "adapter")
        run.display.say(f"facts of {file}: loss {fitted.metrics['loss']:.3f}")

    return run.stage(f"knowledge-{number}", inputs, work)


class _Facts:
    """Records under the name that a user gave them."""

    def __init__(self, name: str, source: Any) -> None:
        self.name, self.source, self.fingerprint = name, source, source.fingerprint

    def __iter__(self) -> Any:
        return iter(self.source)


def _row(record: Any, tokenizer: Any, **how: Any) -> Any:
    """`sft_row` with the columns "version" and "real"."""
    from dataclasses import replace

    from tempering.data import sft_row

    row = sft_row(record, tokenizer, **how)
    if row is None:
        return None
    try:
        extras = {"version": float(int(record.tags.get("knowledge") or 0)), "real": float(record.tags.get("real") is not False)}
    except (TypeError, ValueError):
        raise UserError(f'{record.source}: field "knowledge" is {record.tags["knowledge"]!r}; it is the number of a file of facts, from 0') from None
    return {"train": tuple(replace(segment, extras={**segment.extras, **extras}) for segment in row["train"])}
