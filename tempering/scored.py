"""What an objective logs of held-out rows, row by row: its own score of them, such as DPO's margin, without gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tempering.config import Training
from tempering.coupling import apart
from tempering.fit import count_terms, total
from tempering.layout import collate, to
from tempering.reduce import last
from tempering.reference import columns
from tempering.sample import evaluating
from tempering.signals import Live, engine_for
from tempering.types import Context, Objective, Parts, Policy, Row, Signals


@dataclass(frozen=True)
class Rewards(Objective):
    """Nothing to learn: logs a reward model's scores of both answers of a pair, each the mean over its outputs, and their difference."""

    norm = "segments"
    part = "chosen"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {side: frozenset({"rewards"}) for side in ("chosen", "rejected")}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        chosen_S, rejected_S = (last(signals[side]["rewards"], parts[side]).mean(-1) for side in ("chosen", "rejected"))
        ctx.log(margin=chosen_S - rejected_S, chosen=chosen_S, rejected=rejected_S)
        return 0.0 * chosen_S


class _Log:
    """Keeps what is logged of each micro-batch apart."""

    def __init__(self) -> None:
        self.of: list[dict[str, Tensor]] = []
        self.now = 0

    def __call__(self, **values: Tensor) -> None:
        self.of[self.now] |= {name: value.detach().float().cpu() for name, value in values.items()}


def scored(policy: Policy, objective: Objective, rows: Sequence[Row], training: Training, name: str) -> list[list[float]]:
    """What `objective` logs as `name`, which must be one number for each segment of its part: one list for each row, in the order of its segments.

    The rows are one step, cut into micro-batches of `training.micro_tokens`. The reference is a column of the rows, or the policy's scope switched
    off.

    Raises:
        ValueError: nothing of that name and length is logged.
    """
    engine = engine_for(training)
    policy.model.to(engine.device)
    log, batches = _Log(), apart(_batches(rows, training.micro_tokens))

    def micro(m: int) -> Parts:
        log.now = m
        return to(batches[m], engine.device)

    log.of = [{} for _ in batches]
    with evaluating(policy.model), torch.no_grad():
        micros = [lambda m=m: micro(m) for m in range(len(batches))]
        total({"policy": Live(policy.model, policy.handle)}, objective, micros, count_terms(objective, batches), 0, engine, log)  # type: ignore[arg-type]
    found: list[list[float]] = [[] for _ in rows]
    for parts, logged in zip(batches, log.of, strict=True):
        group_S, value = parts[objective.part].group_S, logged.get(name)
        if value is None or value.shape != group_S.shape:
            raise ValueError(f"{type(objective).__name__} must log {name!r}, one number for each segment of part {objective.part!r}")
        for group, number in zip(group_S.tolist(), value.tolist(), strict=True):
            found[group].append(number)
    return found


def with_logps(policy: Policy, rows: Sequence[Row], training: Training) -> Iterator[Row]:
    """The rows with the policy's log-prob of every scored token as the column "logp", by passes of `training.micro_tokens` in its precision."""
    return columns(policy, rows, engine_for(training), training.micro_tokens, column="logp")


def _batches(rows: Sequence[Row], micro_tokens: int) -> list[Parts]:
    """Consecutive rows, as many as fit into `micro_tokens`."""
    found: list[list[Row]] = []
    room = 0
    for row in rows:
        size = sum(len(segment.ids) for segments in row.values() for segment in segments)
        if size > room:
            found.append([])
            room = micro_tokens
        found[-1].append(row)
        room -= size
    return [collate(some) for some in found]
