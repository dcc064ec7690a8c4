"""DELLA without the election of signs: entries of each change are dropped at random, the small ones more often; what is left is added up.

Deep et al. 2024, arXiv 2406.11617, section 3 (see `della` for the probabilities and for what differs from the paper). The same as mergekit's
`della_linear` for the same random numbers, in float32; in bfloat16 mergekit rounds ranks and probabilities to eight bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Draw, Each
from tempering.methods.merges._vectors import BLOCK, TaskVectors, each, rescaled


@dataclass(frozen=True)
class DellaLinear(TaskVectors):
    """Random entries of each change, large ones more often."""

    rescale: bool = True
    """Keep the L1 norm of each change."""
    density: Each = 1.0
    """The share of entries that are kept, in expectation."""
    epsilon: Each = 0.15
    """How far the smallest and the largest entry of a row are from that share."""

    def thinning(self, count: int) -> Sequence[Any]:
        found = list(zip(each(self.density, count, "density"), each(self.epsilon, count, "epsilon"), strict=True))
        for density, epsilon in found:
            if 0 < density < 1 and not epsilon < min(density, 1 - density):
                raise UserError(f"della: density {density:g} and epsilon {epsilon:g}: the keep probabilities leave 0 to 1; take a smaller epsilon")
        return found

    def thin(self, delta: Tensor, settings: Any, draw: Draw) -> Tensor:
        density, epsilon = settings
        if density >= 1:
            return delta
        if density <= 0:
            return delta.zero_()
        before = delta.abs().sum()
        rows = delta if delta.dim() > 1 else delta.view(1, -1)
        for piece in rows.split(max(1, BLOCK // max(1, rows[0].numel()))):
            order = piece.abs().argsort(dim=1, stable=True)
            place = torch.arange(order.shape[1]).view(-1, *[1] * (order.dim() - 2)).expand_as(order)
            rank = torch.empty_like(order).scatter_(1, order, place).to(torch.float32) / max(1, order.shape[1] - 1)
            piece.mul_(draw(piece.shape) < (density - epsilon) + rank * 2 * epsilon)
        return rescaled(delta, before) if self.rescale else delta


CASES = (
    MergeCase(
        "rows by themselves: 0.25 for the smaller entry, 0.75 for the larger; then the L1 norm of all is put back",
        DellaLinear(density=0.5, epsilon=0.25),
        [[[1, 3], [-4, 2]]],
        [[0, 3 * 10 / 7], [-4 * 10 / 7, 0]],
        base=[[0, 0], [0, 0]],
        uniform=[0.3, 0.7, 0.74, 0.26],
    ),
    MergeCase(
        "by its own density and epsilon; all of a change, none of another",
        DellaLinear(density=(0.6, 1, 0), epsilon=(0.1, 0.15, 0.15), rescale=False, weight=(1, 1, 7)),
        [[5, 1, 3], [1, 1, 1], [9, 9, 9]],
        [6, 1, 1],
        base=[0, 0, 0],
        uniform=[0.69, 0.5, 0.61],
    ),
)
