"""Distillation without data: a student learns from a teacher on text that is made up, and keeps what it had: `temper run dfkd --teacher T`.

Patel et al. 2023, arXiv 2302.14290 (S068; `methods/objectives/dfkd.py` has the loss). The paper distils classifiers of images: a generator network is
trained to make inputs on which student and teacher differ, the student learns these by a step whose memory of earlier ones is judged after it. For
language models, which can write their own inputs, the generator here is a writer at a temperature, the teacher or the student, and a choice: of
`candidates` times as many pseudo-inputs those are learned on which the two differ most (`pseudo.py`). That is ours. `--data` is measured with and
none of it is learned; the log has `agreement`, how often both find the same token likeliest in the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.recipes.rl import refuse

CATALOGUE = ("S068",)
FAMILY = "data_free"
if TYPE_CHECKING:
    DataFree = Any
else:
    DataFree = choices.choice("dfkd")


def dfkd(
    teacher: str | None = None,
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: DataFree = choices.choice("dfkd")(),
    writer: Literal["teacher", "student"] = "teacher",
    heat: Annotated[float, Field(gt=0)] = 1.0,
    candidates: Annotated[int, Field(ge=1)] = 4,
    memory: Annotated[int, Field(ge=1)] = 512,
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(steps=200, batch_size=8, micro_tokens=4096),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Distil a teacher on made-up text, without forgetting what earlier text taught.

    Args:
        teacher: the model to learn from, given as a model is, of the student's vocabulary; it stays as it is.
        model: the student: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: where held-out rows come from; nothing of it is learned.
        test: held-out rows; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the student's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest held-out sequence in tokens.
        limit: read at most this many rows.
        loss: the step's size and order; order none learns the newest text only, as naive adversarial distillation does.
        writer: who writes the pseudo-inputs.
        heat: the temperature of writing; higher is stranger.
        candidates: how many are written for each that is learned, of which those are taken on which both differ most; 1 takes all.
        memory: most pseudo-inputs that are remembered.
        max_new_tokens: longest made-up turn, and longest reply to it.
        scope: which weights of the student may move: full or lora.
        seed: of what is written, of the memory, dropout and initialisation.
    """
    from tempering.ahead import Meta
    from tempering.data import sft_row
    from tempering.methods.objectives.forward_kl import ForwardKL
    from tempering.pseudo import Pseudo
    from tempering.types import Role

    refuse(training)
    loss = choices.value(loss)
    if teacher is None:
        raise UserError("dfkd: no teacher; name the model to learn from with --teacher (a hub id, a folder, the model of another run)")
    if not training.steps:
        raise UserError("dfkd: made-up text has no end, so say how many steps there are, with --steps")
    run = Experiment.begin(dfkd, {**locals(), "loss": loss})
    student, master = run.load(model, template=template), run.beside("teacher", teacher)
    if master.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise UserError(f"--teacher {teacher}: its vocabulary is another than the student's, so its words are not the same")
    _, held = run.rows(data, test, sft_row, shape=shape, limit=limit, max_length=max_length)
    remembers, acquire = loss.order != "none", ForwardKL(temperature=loss.temperature, norm=loss.norm)
    stream = Pseudo(
        student.tokenizer,
        writer="policy" if writer == "student" else "teacher",
        training=training,
        batch_size=training.batch_size,
        candidates=candidates,
        memory=memory if remembers else 0,
        length=max_new_tokens,
        temperature=heat,
        seed=seed,
    )
    ahead = Meta(loss.rate, acquire, loss.order == "second") if remembers else None
    before = run.measure("before", student, held)
    roles = {"teacher": Role(master.model)}
    tuned = run.fit("fit", student, loss.build() if remembers else acquire, held, (), (stream, training.steps), roles=roles, ahead=ahead)
    return run.finish(tuned, before, run.measure("after", tuned, held))
