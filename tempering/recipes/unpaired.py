"""Tuning on answers marked desirable or not, without pairs: `--loss kto`, or `temper run kto`.

Every file of `methods/objectives` that says `FAMILY = "unpaired"` is a loss of this recipe. Pairs are taken apart into a desirable and an undesirable
answer. A loss that asks for the part "kl" gets each prompt with the answer of the next row that has another prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tempering import choices
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.experiment import Experiment, Report
from tempering.held import Rows
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.lora import LoRA
from tempering.types import Record, Row, Segment

FAMILY = "unpaired"
if TYPE_CHECKING:
    AnyUnpaired = Any
else:
    AnyUnpaired = choices.family(FAMILY)


def unpaired(
    model: str = "builtin:smollm2-135m",
    data: str = "builtin:demo-pairs",
    test: str | None = None,
    shape: str = "auto",
    template: str | None = None,
    max_length: int = 1024,
    limit: int | None = None,
    loss: AnyUnpaired = choices.choice("kto")(),
    reference: Literal["auto", "live", "cached"] = "auto",
    scope: AnyScope = LoRA(),
    optimizer: Optimizer = Optimizer(lr=5e-5),
    schedule: Schedule = Schedule(warmup=0.1),
    training: Training = Training(),
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Tune on answers that are marked desirable or undesirable.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m.
        data: file, folder or hub id of answers with a label true/false, or of pairs; builtin:demo-pairs is made for this project.
        test: held-out rows of the same kind; by default 10% of the data, at most 200 rows, chosen by seed.
        shape: how to read the rows; auto recognises it and says so.
        template: chat template instead of the model's own: a Jinja file, or plain (for base models); it is saved with the model.
        max_length: longest sequence in tokens; rows over it are dropped and counted, never cut silently.
        limit: read at most this many rows.
        loss: what is wanted of an answer and its label.
        reference: live computes the reference's log-probs beside the policy's, with a frozen copy where the scope has no switch; cached computes them
            once before training; auto is live for adapters and cached otherwise. Losses without a reference never make one.
        scope: which weights may move: full or lora.
        seed: of shuffling, dropout, initialisation and sampling.
    """
    loss = choices.value(loss)
    run = Experiment.begin(unpaired, {**locals(), "loss": loss})
    objective = loss.build()
    policy = run.load(model, template=template)
    train, held = run.rows(data, test, labelled_row, shape=shape, limit=limit, max_length=max_length)
    before = run.measure("before", policy, held)
    learned, watched = (Mismatched(train, max_length), Mismatched(held, max_length)) if "kl" in objective.needs else (train, held)
    asks = any("reference.logp" in names for names in objective.needs.values())
    if asks and (reference == "cached" or (reference == "auto" and scope.kind != "lora")):
        learned, watched = run.cache_reference(policy, learned, watched)
    tuned = run.fit("fit", policy, objective, learned, watched)
    after = run.measure("after", tuned, held)
    return run.finish(tuned, before, after)


def labelled_row(record: Record, tokenizer: Any, **how: Any) -> Row | None:
    """{"train": segments} with the extra "label": the labelled answer, or both answers of a pair; None if one was dropped."""
    from tempering.data import pairs, unpaired_row

    found = pairs(record, "best_worst") if all(response.label is None for response in record.responses) else []
    if not found:
        return unpaired_row(record, tokenizer, **how)
    sides = [unpaired_row(record, tokenizer, response=i, label=label, **how) for i, label in zip(found[0], (True, False), strict=True)]
    return None if None in sides else {"train": tuple(s for side in sides if side is not None for s in side["train"])}


class Mismatched(Rows):
    """Rows with the part "kl" beside "train": each prompt with an answer that was given to another one, cut at `max_length`."""

    def __init__(self, rows: Rows, max_length: int) -> None:
        super().__init__(rows.table, rows.indices)
        self.rows, self.max_length = rows, max_length
        self.fingerprint = f"{rows.fingerprint}+kl{max_length}"

    def __getitem__(self, i: Any) -> Any:
        own = self.rows[i]
        start = _prompt(own["train"][0])
        others = (self.rows[(i + step) % len(self)] for step in range(1, len(self)))
        other = next((row for row in others if not np.array_equal(_prompt(row["train"][0]), start)), own)
        return {**own, "kl": tuple(self._mixed(a, other["train"][j % len(other["train"])]) for j, a in enumerate(own["train"]))}

    def _mixed(self, mine: Segment, other: Segment) -> Segment:
        mine_end, other_end = len(_prompt(mine)), len(_prompt(other))
        ids = np.concatenate([mine.ids[:mine_end], other.ids[other_end:]])[: self.max_length]
        weight = np.concatenate([mine.weight[:mine_end], other.weight[other_end:]])[: self.max_length]
        return Segment(ids, weight, source=mine.source)


def _prompt(segment: Segment) -> np.ndarray:
    """The tokens before the first that is trained."""
    return segment.ids[: int(np.flatnonzero(segment.weight)[0])]
