"""SISA, sharded training: rows are cut into shards that a model each is trained on, and to forget rows the models that saw them are trained again.

Bourtoule et al. 2019 (arXiv 1912.03817); the baseline that the surveys of the field start from (S076, Liu et al. 2024). Nothing is estimated: what
answers afterwards is, to the bit in float32 on one thread, what a run would have made that never saw the rows, because a row's shard follows from its
own tokens, shards share nothing, and each is trained from the same start with a seed of its own. The price is paid before: every shard learns from
fewer rows, and all of them answer. The paper's slices (checkpoints within a shard, so that it is retrained in part) are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.types import Policy, Row

CATALOGUE = ("S076",)


def sisa(
    model: str = "builtin:tiny",
    request: Request = Request(forget="builtin:authors-forget", retain="builtin:authors-retain"),
    shards: Annotated[int, Field(ge=1)] = 4,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=1e-3),
    schedule: Schedule = Schedule(),
    training: Training = Training(epochs=3),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Train a model on each shard of the rows, forget some rows by training their shards again, and try to get them out.

    Args:
        model: what every shard starts from, and which saw none of the rows: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        request: what is to go and to stay, and how it is attacked.
        shards: how many; with 1 this is training again from the start.
        scope: which weights of a shard's model may move, full or lora.
        seed: of the first shard; the others have the next ones.
    """
    from tempering import models
    from tempering.forgetting import battery
    from tempering.forgetting.oracle import Chained
    from tempering.forgetting.shards import sharded, voting
    from tempering.methods.objectives.nll import NLL
    from tempering.models.save import plain_model

    case = Attacked(Experiment.begin(sisa, locals()))
    run, start, watched = case.run, case.policy, battery.Renamed(case.held, "retain")
    # A retain row is in the same shard whether forget rows stand beside it or not.
    kept, left = sharded(Chained((case.staying, "retain")), shards), sharded(Chained((case.going, "forget")), shards)
    touched = [k for k in range(shards) if len(left[k])]
    run.display.say(f"{len(case.staying)} + {len(case.going)} rows in {shards} shards; {len(touched)} of them hold rows that are to go")

    def trained(name: str, rows: Sequence[Row], shard: int) -> Any:
        learner = Policy(copy.deepcopy(start.model), start.tokenizer, name=start.name, source=start.source)
        return plain_model(run.fit(name, learner, NLL(), rows, watched, offset=shard)).requires_grad_(False).eval()

    every = {k: Chained((kept[k], "train"), (left[k], "train")) for k in range(shards)}
    knew = {k: trained(f"shard-{k}", rows, k) for k, rows in every.items() if len(rows)}
    taught = run.cost["seconds"]
    knowing = voting(list(knew.values()), start, f"{start.name} + sisa")
    run.model_spec = str(models.save(knowing, run.folder.path / "knowing"))
    case.before(knowing, decodes=len(knew) > 1)
    again = {k: trained(f"shard-{k}-again", kept[k], k) for k in touched if len(kept[k])}
    now = {k: again.get(k, of) for k, of in knew.items() if len(kept[k])}
    spent = run.cost["seconds"] - taught
    run.display.say(f"training {len(again)} of {len(now)} shards again took {spent:.1f} s; training all of them took {taught:.1f} s")
    return case.after(voting(list(now.values()), start, knowing.name), cost={"unlearning": {"seconds": spent}, "retraining": {"seconds": taught}})
