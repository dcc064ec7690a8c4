"""Training a reward model that keeps telling the policy's own answers apart: MetaRM, `temper run meta_rm --policy MODEL`.

`methods/objectives/meta_rm.py` has the papers and what is not known of them. The policy (the one that the reward model is used on, after some
training by it; the start model unless another is named) answers each prompt several times, once, before training. Each step then takes the gradient
of the loss on the pairs at weights that stand one step up in J, and moves the weights themselves. The rest is the recipe `reward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes._answers import answered
from tempering.recipes._family import writes_nothing
from tempering.recipes.reward import FAMILY as REWARD
from tempering.recipes.reward import AnyReward, writer

FAMILY = "ahead"
if TYPE_CHECKING:
    Ahead = Any
else:
    Ahead = choices.choice("meta_rm")


def meta_rm(
    model: str = "builtin:smollm2-135m",
    policy: str | None = None,
    data: str = "builtin:demo-ratings",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    answers: Annotated[int, Field(ge=2)] = 4,
    limit: int | None = None,
    loss: AnyReward = choices.default(REWARD, "bradley_terry"),
    ahead: Ahead = choices.choice("meta_rm")(),
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(keep="none"),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a reward model on pairs, with a step ahead on unlabelled answers of the policy.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m, or a reward model to go on with.
        policy: the language model whose answers must stay apart, with the same tokenizer; by default the start model.
        data: file, folder or hub id of pairs (chosen/rejected, or a prompt with rated responses); builtin:demo-ratings is made for this project.
        test: held-out pairs; by default 10% of the data, at most 200 pairs, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; pairs over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of the policy.
        answers: of the policy to each prompt, the paper's k.
        limit: read at most this many rows.
        loss: what is wanted of the pairs; one that asks for no further columns.
        ahead: the step before each step.
        scope: which weights of the body may move, full or lora; the new head always trains.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import rewarded_row

    writes_nothing(budget)
    loss = choices.value(loss)
    run = Experiment.begin(meta_rm, {**locals(), "loss": loss})
    objective, inner = loss.build(), ahead.build()
    start = run.load(model, template=template, outputs=len(getattr(objective, "attributes", ())) or 1)
    learned, held = run.rows(data, test, rewarded_row, shape=shape, limit=limit, max_length=max_length)
    run.check(objective, learned)
    shown = answered(run, "answers", writer(run, policy or model), learned, answers)
    before = run.measure("before", start, held, objective, held)
    tuned = run.fit("fit", start, objective, shown, held, ahead=(inner.rate, inner) if inner.rate else None)
    return run.finish(tuned, before, run.measure("after", tuned, held, objective, held))
