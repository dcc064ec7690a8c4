"""Training a reward model anew on what the policy now writes: reward learning on policy, `temper run rlp --model REWARD --policy MODEL`.

Lang et al. 2024, arXiv 2403.19279. The policy answers the prompts of the pairs several times; where enough answers agree, pairs are made of those
that do and those that do not (`methods/streams/spg.py`), beside the pairs that people labelled. Two more answers to each prompt are the views of a
loss with `FAMILY = "views"` (`methods/objectives/mib.py`). Training the policy by the new reward model, and so on in turns, is not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams.spg import SPG
from tempering.recipes._answers import answered
from tempering.recipes._family import writes_nothing
from tempering.recipes.reward import writer

FAMILY = "views"
if TYPE_CHECKING:
    AnyViews = Any
else:
    AnyViews = choices.family(FAMILY)


def rlp(
    model: str = "builtin:smollm2-135m",
    policy: str | None = None,
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    limit: int | None = None,
    make: SPG = SPG(),
    loss: AnyViews = choices.default(FAMILY, "mib"),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a reward model on pairs, on pairs made of the policy's answers, and on views of them.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m, or a reward model to go on with.
        policy: the language model that answers, with the same tokenizer; by default the start model.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-pairs is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 records, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of the policy.
        limit: read at most this many rows.
        make: how pairs are made of the policy's answers.
        loss: what is wanted of pairs and views.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of the split, of what is made, of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import rewarded_row
    from tempering.lessons import lessons

    writes_nothing(budget)
    loss = choices.value(loss)
    run = Experiment.begin(rlp, {**locals(), "loss": loss})
    objective: Any = loss.build()
    start = run.load(model, template=template, outputs=1)
    writes = writer(run, policy or model)
    (made,), measured = lessons(run, writes, make)
    learned, held = (run.made_rows(role, of, rewarded_row, max_length=max_length) for role, of in (("train", made), ("test", measured)))
    shown, seen = learned, held
    if "responses" in objective.needs:
        shown, seen = (answered(run, name, writes, rows, 2) for name, rows in (("views", learned), ("views-held", held)))
    run.check(objective, shown)
    before = run.measure("before", start, held, objective, held)
    tuned = run.fit("fit", start, objective, shown, seen)
    return run.finish(tuned, before, run.measure("after", tuned, held, objective, held))
