"""Experts instead of one model for all: an adapter for each task, and for a new task the one whose prompts look most like its own: `temper run elm`.

Jang et al. 2023 (arXiv 2302.03202, S213): an expert that learned a single task does better on many unseen ones than a model that learned all tasks
together, if it is the right one; which one that is is found by prompts alone (`merging/library.py`), so an expert can be added without touching
others. With `--merge` the weights of the experts with the most votes are averaged, for tasks that are made of several. 100 entries of each task and
32 prompts of the new one are the paper's, as it is remembered. Every expert stands in the run folder; `model` is what the new task gets.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA

if TYPE_CHECKING:
    from tempering.types import Row

CATALOGUE = ("S213",)


def elm(
    tasks: tuple[str, ...] = (),
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    train_on: Literal["assistant", "last", "each", "all"] = "assistant",
    max_length: int = 1024,
    limit: int | None = None,
    entries: Annotated[int, Field(ge=1)] = 100,
    queries: Annotated[int, Field(ge=1)] = 32,
    merge: Annotated[int, Field(ge=1)] = 1,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train an expert for each task, and give a new task the one that its prompts ask for.

    Args:
        tasks: files, folders or hub ids with the rows of a task each; every one gets an expert.
        model: what every expert starts from: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: rows of the new task; of those that are not held out only some prompts are read.
        test: held-out rows of the new task; by default 10% of its data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        train_on: what is scored: every assistant turn, the last, each in a sequence of its own, or all.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each file.
        entries: prompts of each task that stand for its expert.
        queries: prompts of the new task that vote.
        merge: the weights of so many experts with the most votes are averaged; 1 takes the first as it is.
        scope: which weights of an expert may move: full or lora.
        training: that of each expert.
        seed: of the first expert; the others have the next ones.
    """
    from tempering import models
    from tempering.data import sft_row
    from tempering.merging.library import Library, embed
    from tempering.methods.objectives.nll import NLL

    if not tasks:
        raise UserError("elm: no tasks; name files of one task each with --tasks (--tasks a.jsonl --tasks b.jsonl)")
    if merge > len(tasks):
        raise UserError(f"--merge {merge}: there are {len(tasks)} tasks, so no more experts than that can be merged")
    run = Experiment.begin(elm, locals())
    start = run.load(model, template=template)
    how: Any = {"shape": shape, "limit": limit, "max_length": max_length, "train_on": train_on}
    new, held = run.rows(data, test, sft_row, **how)
    before = run.measure("before", start, held)
    library, where = Library({}), dict[str, Path]()
    for number, file in enumerate(tasks):
        rows, name = run.all_rows(f"task {number + 1}", file, sft_row, **how), f"expert-{number + 1}"
        run.fit(name, replace(start, model=copy.deepcopy(start.model)), NLL(), rows, (), offset=number)
        where[file] = run.folder.path / name / "model"
        library = library.add(file, embed(start, prompts(rows, entries), training))
    asked = embed(start, prompts(new, queries), training)
    votes, chosen = library.votes(asked), library.route(asked, merge)
    run.folder.write("experts.json", {"votes": votes, "chosen": chosen})
    run.display.say(f"{len(asked)} prompts vote: " + ", ".join(f"{count} for {file}" for file, count in votes.items() if count))
    tuned = models.load(str(_taken([where[file] for file in chosen], run.folder.path / "model")), say=run.display.say)
    return run.finish(tuned, before, run.measure("after", tuned, held))


def prompts(rows: Sequence[Row], most: int) -> list[list[int]]:
    """What stands before the first scored token of some rows, spread over all of them."""
    from tempering.methods.probes.held_answer import prompt_and_answer

    count = min(most, len(rows))
    return [list(prompt_and_answer(rows[k * len(rows) // count]["train"][0])[0]) for k in range(count)]


def _taken(experts: Sequence[Path], out: Path) -> Path:
    """A folder with one expert as it is, or with the average of several; made once."""
    from tempering import models
    from tempering.merging.config import Config, Source
    from tempering.merging.run import merge

    if (out / "policy.json").exists():
        return out
    if len(experts) == 1:
        return models.save(models.load(str(experts[0]), say=lambda _: None), out)
    return merge(Config(merge_method="linear", models=[Source(model=str(one)) for one in experts]), out, say=lambda _: None)
