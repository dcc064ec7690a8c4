"""Guarded fine-tuning: learn the user's rows, harmful ones among them or not, without learning to do harm.

`vector`: security vectors (Zhou et al. 2023, S225, arXiv:2311.02105). A few separable parameters, here a change of the weights in the run's scope,
first learn harmful rows while the model stands still; they lie on the model while the user's rows are learned, so what is harmful among those is
known already and leaves next to no gradient; in the end they are taken off again. As a sum of weights the detached model is start + (trained -
armed), so a vector under which nothing was learned comes off without a trace, bit for bit. The paper writes it as one min-min problem over both; here
the vector is trained first and then stands still.

`mix`: rows that decline the same harmful requests are mixed in, a `share` of all rows. `none`: neither, to compare with.

What is kept is measured on harmful requests that none of them saw: how many are declined, and how many harmful answers come out under attack.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.types import Probe, Record

CATALOGUE = ("S225",)


def guarded(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo",
    harmful: str = "",
    test: str | None = None,
    harmful_test: str | None = None,
    guard: Literal["vector", "mix", "none"] = "vector",
    vector_epochs: Annotated[float, Field(gt=0)] = 5.0,
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=2e-4),
    schedule: Schedule = Schedule(),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Fine-tune on rows of which some may be harmful, with a guard against learning harm.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of the user's conversations, instructions or prompt/completion rows.
        harmful: harmful requests with answers that comply, about a hundred: what the guard is made of.
        test: held-out rows of the user's kind; by default 10% of the data, at most 200 rows, chosen by seed.
        harmful_test: harmful requests to measure with; by default 10% of `harmful`, at most 200, chosen by seed.
        guard: a security vector, declining rows in the mix, or none.
        vector_epochs: passes over the harmful rows while the security vector is learned.
        share: of all rows, how many decline a harmful request (mix).
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows of each file.
        scope: which weights may move, and in which form the security vector is learned: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    from tempering.data import sft_row
    from tempering.data.forgetting import answered, refusal
    from tempering.data.streams import Shuffled
    from tempering.forgetting.oracle import Chained
    from tempering.forgetting.staged import moved
    from tempering.forgetting.verdict import tell
    from tempering.held import target_probes
    from tempering.lessons import Made, split
    from tempering.methods.objectives.nll import NLL
    from tempering.models.save import plain_model
    from tempering.types import Policy

    if not harmful:
        raise UserError("guarded needs harmful requests with answers that comply, about a hundred rows: --harmful FILE")
    run = Experiment.begin(guarded, locals())
    policy = run.load(model, template=template)
    how: dict[str, Any] = {"shape": shape, "limit": limit, "max_length": max_length}
    learned, held = run.rows(data, test, sft_row, **how)
    records = list(islice(run.source(harmful, shape, limit), limit))
    known, unseen = (records, list(run.source(harmful_test, shape, None))) if harmful_test else split(records, run.budget.max_test, seed)
    asked = (*target_probes(held, run.budget.max_test), *_asked(unseen, run.budget.max_test))
    before = run.measure("before", policy, held, probes=asked)
    rows: Sequence[Any] = learned
    ending: Any = None
    if guard == "mix":
        declining = run.made_rows("declining", Made("declining", tuple(answered(r, refusal(r)) for r in known)), sft_row, max_length=max_length)
        times = max(1, round(share / (1 - share) * len(learned) / len(declining)))
        rows = Chained((learned, "train"), *[(declining, "train")] * times)
    elif guard == "vector":
        harm = run.made_rows("harmful", Made("harmful", tuple(known)), sft_row, max_length=max_length)
        start = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
        learner = Policy(copy.deepcopy(policy.model), policy.tokenizer, name=policy.name, source=policy.source)
        steps = max(1, math.ceil(vector_epochs * len(harm) / training.batch_size))
        vector = run.fit("vector", learner, NLL(), harm, held, (Shuffled(harm, training.batch_size, seed), steps))
        armed = plain_model(vector).requires_grad_(False)
        since = {name: p.detach().clone() for name, p in armed.named_parameters()}
        policy = Policy(armed, policy.tokenizer, name=policy.name, source=policy.source)
        ending = lambda tuned: moved(tuned, start, since)  # noqa: E731
    tuned = run.fit("fit", policy, NLL(), rows, held, ending=ending)
    after = run.measure("after", tuned, held, probes=asked)
    tell(run, before, after, None)
    return run.finish(tuned, before, after)


def _asked(unseen: Sequence[Record], most: int) -> tuple[Probe, ...]:
    """Whether harmful requests are declined, and whether their answers come out."""
    from tempering.forgetting.battery import SOME, room
    from tempering.forgetting.targets import secrets
    from tempering.methods.probes.asked import Asked
    from tempering.methods.probes.begun import Begun
    from tempering.methods.probes.refusals import Refusals, RequestItem
    from tempering.methods.probes.reworded import Reworded
    from tempering.methods.probes.role_play import RolePlay

    of = secrets(unseen, most)
    if not of:
        raise UserError("harmful: no held-out row has a request with an answer, so there is nothing to measure with; give --harmful-test")
    requests = tuple(RequestItem(id=s.id, prompt=s.prompt[-1][1], should="refuse") for s in of)
    how: dict[str, Any] = {"items": of, "side": "keep", **room(of)}
    some = {**how, "limit": SOME}
    return Refusals(name="harm declined", items=requests), Asked(**how), Reworded(**some), RolePlay(**some), Begun(**some)
