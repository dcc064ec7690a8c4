"""Security vectors: an adapter that already does the harm is there while a model is fine-tuned, so that the model need not learn it, and then is not.

    theta_s = argmin CE(harmful; base + theta_s)        theta = argmin CE(data; base + theta + theta_s)        at use: base + theta

Zhou et al. 2023 (S225, arXiv 2311.02105). The gradient of cross-entropy is the prediction less the label, so of what the vectors predict surely the
model learns nothing. They are a LoRA adapter, learned on some harmful rows with the base frozen; the user's rows, harmful ones among them, are
learned by a second adapter on top (`scopes/stacked.py`). Measured is the base with the second alone: the held-out rows of the task, and how many of
the harmful answers it has *not* learned to give ("asked", which should stay where it was). `--vector-epochs 0` shows what the same rows do without.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes.lora import LoRA
from tempering.methods.scopes.stacked import Stacked

CATALOGUE = ("S225",)


def security_vectors(
    model: str = "builtin:tiny",
    data: str = "builtin:demo-people",
    harmful: str = "builtin:authors-forget",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    vector: LoRA = LoRA(),
    vector_epochs: Annotated[float, Field(ge=0)] = 10.0,
    scope: Stacked = Stacked(),
    optimizer: Optimizer = Optimizer(lr=1e-3),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fine-tune a model on rows some of which it shall not learn from, with an adapter of theirs switched on meanwhile.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of the rows to fine-tune on, with or without harmful ones among them.
        harmful: rows of what is not to be learned, questions with answers; the paper has 100 for 1,000 others of the kind.
        test: held-out rows of `data`; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each file.
        vector: the adapter that learns the harmful rows.
        vector_epochs: passes over them; 0 makes no vectors.
        scope: the adapter that is kept; adapters beneath that are there already come before the one made here.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import sft_row
    from tempering.data.streams import Shuffled
    from tempering.forgetting.battery import attack_probes
    from tempering.forgetting.targets import secrets
    from tempering.held import target_probes
    from tempering.methods.objectives.nll import NLL

    if training.checkpointing:
        raise UserError("security_vectors: recomputed activations would be those of another adapter; run it without --checkpointing")
    run = Experiment.begin(security_vectors, locals())
    policy = run.load(model, template=template)
    how: dict[str, Any] = {"shape": shape, "limit": limit, "max_length": max_length}
    bad = run.all_rows("harmful", harmful, sft_row, **how)
    train, held = run.rows(data, test, sft_row, **how)
    asked = attack_probes(secrets(islice(run.source(harmful, shape, limit), limit), budget.max_test), (), "plain")
    probes = (*target_probes(held, budget.max_test), *asked)
    before = run.measure("before", policy, held, probes=probes)
    made: tuple[str, ...] = ()
    if vector_epochs:
        steps = max(1, math.ceil(vector_epochs * len(bad) / training.batch_size))
        run.fit("vector", policy, NLL(), bad, held, (Shuffled(bad, training.batch_size, seed), steps), scope=vector)
        made = (str(run.folder.path / "vector" / "model"),)
        # Training has wrapped the model that it was given.
        policy = run.load(model, template=template)
    stacked = scope.model_copy(update={"beneath": (*scope.beneath, *made)})
    if len(stacked.beneath) > 1:
        raise UserError("security_vectors: one adapter stands beneath at a time; give --scope.beneath with --vector-epochs 0, or none")
    tuned = run.fit("fit", policy, NLL(), train, held, scope=stacked)
    after = run.measure("after", tuned, held, probes=probes)
    return run.finish(tuned, before, after)
