"""Unlearning: `temper run forget --method npo --forget F.jsonl --retain R.jsonl`, or `temper run npo`.

Every file of `methods/objectives` that says `FAMILY = "forget"` is a method of this recipe: its forget term, with any retain term, scope and length
of training. What is to be forgotten is attacked before and after, by default in every way there is; a model that never saw it (`--oracle`) is
attacked beside, because what such a model also says is no leak. The verdict is the strongest attack's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

FAMILY = "forget"
if TYPE_CHECKING:
    AnyForgetting = Any
else:
    AnyForgetting = choices.family(FAMILY)


def forget(
    model: str = "builtin:tiny",
    forget: str = "builtin:people-forget",
    retain: str = "builtin:people-retain",
    forget_test: str | None = None,
    retain_test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    method: AnyForgetting = choices.choice("npo")(),
    oracle: str | None = None,
    attacks: Literal["all", "plain", "none"] = "all",
    redact: bool = True,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Make a model forget some rows, keep others, and try to get the forgotten ones out again.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        forget: file, folder or hub id of the rows that are to go (questions and answers, or plain texts).
        retain: rows that are to stay; batches take as many of them as of the others, in an order of their own.
        forget_test: the same facts in other words, to ask for beside the forget rows; builtin sets have one.
        retain_test: held-out rows of what is to stay; by default 10% of the retain rows, at most 200, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each file.
        method: how to forget: the forget term and its retain term.
        oracle: a model that never saw the forget rows (retrained without them), measured beside the other two.
        attacks: all of them before and after, only plain questions, or none.
        redact: keep hashes instead of the words of forgotten rows in scores, samples and reports.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering import models
    from tempering.data import forget_row, retain_row
    from tempering.data.streams import Shuffled, Together
    from tempering.forgetting import battery, staged
    from tempering.forgetting.redact import redacted
    from tempering.forgetting.verdict import verdict

    method = choices.value(method)
    run = Experiment.begin(_RECIPE, {**locals(), "method": method})
    objective = method.build()
    policy = run.load(model, template=template)
    how: dict[str, Any] = {"shape": shape, "limit": limit, "max_length": max_length}
    going = run.all_rows("forget", forget, forget_row, refusals="refused" in objective.needs, **how)
    staying, held = run.rows(retain, retain_test, retain_row, roles=("retain", "retain-test"), **how)
    run.check(objective, [{**going[0], **staying[0]}])
    if forget_test is None and forget.startswith("builtin:"):
        forget_test = f"{forget}-test"
    asked = battery.probes(run, forget, forget_test, held, attacks=attacks, shape=shape, limit=limit, decodes=objective.decodes)
    hide = redacted if redact else lambda scores: scores
    before = run.measure("before", policy, held, probes=asked, hide=hide)
    never = run.measure("oracle", models.load(oracle, say=run.display.say), held, probes=asked, hide=hide) if oracle else None
    size, parts = training.batch_size, set(objective.needs)
    streams = [Shuffled(rows, size, seed + i) for i, rows in enumerate((going, staying)) if parts & set(rows[0])]
    steps = training.steps or max(1, -(-round(training.epochs * len(going)) // size))
    watched = battery.beside(going, held)
    tuned = staged.fit(run, policy, objective, going, watched, (Together(*streams), steps))
    after = run.measure("after", tuned, held, probes=asked, hide=hide)
    found = verdict(before, after, never)
    if found is not None:
        run.folder.write("forgetting.json", found.plain())
        run.display.say(found.sentence)
    return run.finish(tuned, before, after)


_RECIPE = forget
"""The function, whose own argument has its name."""
