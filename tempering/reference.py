"""The reference's log-probs as a column of the rows: computed once before training, kept in the store by content, read by memory map.

A preference or forgetting objective that asks for "reference.logp" then costs one forward pass per row in total, however many epochs follow, and no
second copy of the weights. The key is everything that the numbers depend on: the weights, the rows, the precision; the same question asked again, by
another run with another learning rate, is answered from the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tempering.data.table import Table
from tempering.home import store_dir
from tempering.layout import collate, lengths, to
from tempering.sample import evaluating
from tempering.signals import Engine, Live, compute, owner
from tempering.stages import content_key
from tempering.types import Objective, Policy, Row

COLUMN = "reference.logp"


def cached(
    policy: Policy,
    rows: Sequence[Row],
    engine: Engine,
    inputs: dict[str, Any],
    *,
    micro_tokens: int = 2048,
    progress: Callable[[int, int], None] = lambda done, total: None,
    column: str | tuple[str, ...] = COLUMN,
    part: str | None = None,
) -> Table:
    """The same rows with the policy's log-prob of every scored token, float32 [tokens], 0 elsewhere, as the column "reference.logp".

    Args:
        policy: the reference: the model before training.
        engine: how to run it; the precision is part of the key.
        inputs: what else the numbers depend on, JSON-able: digests of the weights and of the rows.
        micro_tokens: tokens of one forward pass.
        progress: called as (rows done, rows).
        column: another signal, under the name that an objective asks for it by: "prior.entropy"; or several of one pass.
        part: the only part that the policy reads; by default all.
    """
    key = content_key({"column": column, "dtype": str(engine.dtype), "rows": len(rows), **({"part": part} if part else {}), **inputs})
    folder = store_dir("tables") / key
    return Table.open(folder) if folder.exists() else Table.build(columns(policy, rows, engine, micro_tokens, progress, column, part), folder)


def brought(objective: Objective, *rows: Mapping[str, Sequence[Any]]) -> frozenset[str]:
    """The signals that an objective asks for and that each of these rows brings as columns of every part that it asks them of.

    Args:
        rows: part -> segments, or whatever else has `extras`: one row of each set stands for the set.
    """
    asked = {name for names in objective.needs.values() for name in names}

    def everywhere(name: str) -> bool:
        parts = [part for part, names in objective.needs.items() if name in names]
        return all(row.get(part) and all(name in segment.extras for segment in row[part]) for row in rows for part in parts)

    return frozenset(filter(everywhere, asked)) if rows else frozenset()


def columns(
    policy: Policy,
    rows: Sequence[Row],
    engine: Engine,
    micro_tokens: int = 2048,
    progress: Callable[[int, int], None] = lambda done, total: None,
    column: str | tuple[str, ...] = COLUMN,
    part: str | None = None,
) -> Iterator[Row]:
    """What `cached` keeps, row by row, without the store. Rows of like length go through the model together."""
    whole, rows = rows, rows if part is None else [{part: row[part]} for row in rows]
    names = {owner(name)[1]: name for name in ((column,) if isinstance(column, str) else column)}
    found: list[dict[str, list[dict[str, np.ndarray]]]] = [{} for _ in rows]
    policy.model.to(engine.device)
    roles = {"policy": Live(policy.model)}
    size = [sum(len(s.ids) for segments in row.values() for s in segments) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -size[i])
    done, at = 0, 0
    with evaluating(policy.model), torch.no_grad():
        while at < len(order):
            # As many rows of like length as fit into one pass.
            count = max(1, min(len(order) - at, micro_tokens // max(1, size[order[at]])))
            chosen, at = order[at : at + count], at + count
            parts = to(collate([rows[i] for i in chosen]), engine.device)
            signals = compute(roles, parts, {part: frozenset(names) for part in parts}, engine)
            for name_of_part, batch in parts.items():
                size_S = lengths(batch).tolist()
                pieces = {name: signals[name_of_part][signal].float().cpu().split(size_S) for signal, name in names.items()}
                for i, group in enumerate(batch.group_S.tolist()):
                    found[chosen[group]].setdefault(name_of_part, []).append({name: values[i].numpy() for name, values in pieces.items()})
            done += count
            progress(done, len(rows))
    for row, seen, values in zip(whole, rows, found, strict=True):
        told = {
            name: tuple(replace(s, extras={**s.extras, **value}) for s, value in zip(segments, values.get(name, ()), strict=True))
            for name, segments in seen.items()
        }
        yield {**row, **told}
