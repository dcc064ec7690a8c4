"""Rows without their answers, and where their representations lie: what forgetting without labels looks at (LAF, S119)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tempering.types import Policy, Row, Segment

if TYPE_CHECKING:
    from tempering.methods.objectives._represented import Density
    from tempering.signals import Engine


class Prompts(Sequence[Row]):
    """Rows of their prompts alone, every token but the first scored; a text, which has none, is whole."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        return {part: tuple(map(_prompt, segments)) for part, segments in self.rows[i].items()}


def _prompt(s: Segment) -> Segment:
    start = int(np.flatnonzero(s.weight)[0])
    ids = s.ids[:start] if start > 1 else s.ids
    return replace(s, ids=ids, weight=np.array([0.0] + [1.0] * (len(ids) - 1), dtype=np.float32))


def densities(policy: Policy, objective: Any, going: Sequence[Row], staying: Sequence[Row], engine: Engine, most: int = 512) -> Any:
    """The objective with the densities of all rows and of the forget rows, at most `most` of each kind, as the policy sees them.

    Args:
        objective: says at which layer, and how many directions.
    """
    import torch

    from tempering.layout import collate, split, to
    from tempering.reduce import segment_mean
    from tempering.signals import Live, compute

    found = []
    policy.model.to(engine.device)
    for part, rows in (("forget", going), ("retain", staying)):
        size, name = min(most, len(rows)), f"hidden.{objective.layer}"
        some = [{part: rows[i * len(rows) // size][part]} for i in range(size)]
        means = []
        for micro in split(collate(some), 4096):
            parts = to(micro, engine.device)
            states_TH = compute({"policy": Live(policy.model)}, parts, {part: frozenset({name})}, engine)[part][name]
            means.append(segment_mean(states_TH, parts[part]).detach().double().cpu())
        found.append(torch.cat(means))
    return objective.knowing(density(torch.cat(found), objective.latent), density(found[0], objective.latent))


def density(g_NH: Any, directions: int) -> Density:
    """Mean and leading principal directions of representations; fewer where they span fewer."""
    import torch

    from tempering.methods.objectives._represented import Density

    mean_H = g_NH.mean(0)
    _, spread, basis = torch.linalg.svd(g_NH - mean_H, full_matrices=False)
    kept = basis[: min(directions, int((spread > 1e-9 * max(1.0, float(spread.max()))).sum()))]
    return Density(tuple(mean_H.tolist()), tuple(map(tuple, kept.tolist())))
