"""Mango: a larger model begins as a multi-linear function of a smaller one, whose few numbers are trained first: `temper run mango --model M`.

Pan et al. 2023, arXiv 2310.10699 (S188): every weight of the larger model depends on all of the smaller one's through four small cores (over tiles
of a block, rows, columns and depth; `reshaping/multilinear.py`); about a hundred steps on the text train the cores, then all weights train as ever.
The paper's rank is 1; how it begins the cores and what it does outside the blocks is not known here: ours begin as copies, embedding and output
layer have a map of their own, norms are copied. LiGO (Wang et al. 2023, arXiv 2303.00980) is this without the core over tiles and with one of rows
and columns for each kind of matrix. What is written is a plain model of the same architecture; the ledger is against the smaller one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.full import Full

CATALOGUE = ("S188",)


def mango(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    wider: Annotated[int, Field(ge=1)] = 1,
    layers: Annotated[int | None, Field(ge=1)] = None,
    rank: Annotated[int, Field(ge=1)] = 1,
    noise: Annotated[float, Field(ge=0)] = 0.05,
    core_steps: Annotated[int, Field(ge=1)] = 100,
    core_lr: Annotated[float, Field(gt=0)] = 1e-3,
    scope: AnyScope = Full(),
    optimizer: Optimizer = Optimizer(lr=1e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Grow a model by a multi-linear map that is trained first, then train all of it.

    Args:
        model: the smaller one: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of conversations, instructions, prompt/completion rows or texts; builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own, or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        wider: how many times as many channels, neurons and heads, which keep their size.
        layers: blocks of the larger model; by default as many again where it gets no wider, else as many.
        rank: of the ring of cores.
        noise: what tells copies apart at the start, as a share of a core's own size.
        core_steps: optimizer steps in which the cores train alone.
        core_lr: their learning rate.
        scope: which weights may move afterwards: full or lora.
        training: that of the second part; the first takes as many rows a step.
        seed: of noise, shuffling, dropout and initialisation.
    """
    from tempering.data import sft_row
    from tempering.data.streams import Shuffled
    from tempering.methods.objectives.nll import NLL
    from tempering.models.save import plain_model
    from tempering.reshaping.multilinear import Grown, larger

    run = Experiment.begin(mango, locals())
    small = run.load(model, template=template)
    now = int(small.model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    layers = layers or (2 * now if wider == 1 else now)
    if wider == 1 and layers == now:
        raise UserError(f"--wider 1 --layers {now}: that is the size that {model} has; say --wider 2, or more layers")
    train, held = run.rows(data, test, sft_row, shape=shape, limit=limit, max_length=max_length, train_on=train_on)
    before = run.measure("before", small, held)
    made = replace(small, model=larger(small.model, wider, layers, seed), handle=None)
    if not run.rehearses:
        cores, stream = Grown(small.model, rank, noise, seed), Shuffled(train, training.batch_size, seed)
        learn = optimizer.model_copy(update={"lr": core_lr})
        grown = run.fit("cores", made, NLL(), train, (), (stream, core_steps), scope=cores, optimizer=learn, offset=1)
        made = replace(made, model=plain_model(grown), name=small.name)
    tuned = run.fit("fit", made, NLL(), train, held)
    return run.finish(tuned, before, run.measure("after", tuned, held))
