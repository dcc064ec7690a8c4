"""Tailored learning: a student shows its mistakes to a teacher and learns what it says of them, round after round: `temper run tailored --teacher T`.

Wang et al. 2023, arXiv 2310.13332 (S006). Each round the student as it is answers the questions; of those that it got wrong the teacher, who sees the
wrong answer, writes a rationale; all rationales so far are trained, with the triplet loss on last states beside the likelihood (`self_reflection`).
What a round made lies in the run folder (`made-0/records.jsonl`, ...). Measured are held-out questions with the data's answers.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.methods.streams.tailored import Tailored

CATALOGUE = ("S006",)


def tailored(
    model: str = "builtin:smollm2-135m",
    teacher: str | None = None,
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    max_new_tokens: Annotated[int, Field(ge=1)] = 128,
    limit: int | None = None,
    make: Tailored = Tailored(),
    reflection: Annotated[float, Field(ge=0)] = 0.5,
    rounds: Annotated[int, Field(ge=1)] = 3,
    every: Annotated[int, Field(ge=1)] = 20,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Learn from a teacher's rationales for one's own mistakes.

    Args:
        model: the student: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        teacher: who sees the mistakes, given as a model is; without one the data's own answers are learned of what the student got wrong.
        data: file, folder or hub id of questions with right answers; builtin:demo is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 records, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the student's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rationales over it are dropped and counted, never cut silently.
        max_new_tokens: longest answer of student and teacher.
        limit: read at most this many rows.
        make: what is asked, shown and kept.
        reflection: what the triplet loss counts beside the likelihood; 0 is fine-tuning on the rationales.
        rounds: how often the student answers; the first round is the start model's.
        every: optimizer steps of a round (the settings for epochs and steps do not count here).
        scope: which weights may move: full or lora.
        seed: of the split, of what is made, of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import sft_row
    from tempering.data.reflected import reflected_row
    from tempering.distributed import word
    from tempering.lessons import Made, divided
    from tempering.methods.objectives.nll import NLL
    from tempering.methods.objectives.self_reflection import SelfReflection
    from tempering.rounds import Makers, Rounds

    if word.several():
        raise UserError("tailored: the student is asked while it trains, which one process can do only; run it without --processes")
    run = Experiment.begin(tailored, locals())
    policy = run.load(model, template=template)
    records, held_records, inputs = divided(run)
    teach = run.ask(run.beside("teacher", teacher), quiet=True) if teacher else None
    makers = Makers(run, policy, make, records, inputs, reflected_row, False, teach, max_length=max_length)
    first = makers.first()
    held = run.made_rows("test", Made(data, tuple(held_records)), sft_row, max_length=max_length)
    objective: Any = NLL(part="chosen")
    if reflection:
        objective = objective + reflection * SelfReflection()
    before = run.measure("before", policy, held)
    # A plan has no live model to ask again: every round looks like the first.
    again = (lambda number, live: first) if run.rehearses else makers.again
    stream = Rounds(first, again, every, training.batch_size, seed)
    tuned = run.fit("fit", policy, objective, first, (), (stream, rounds * every))
    return run.finish(tuned, before, run.measure("after", tuned, held))
