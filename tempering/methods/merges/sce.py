"""SCE: entries that vary most between models are selected, weights calculated from their energy, and entries of the minority sign erased.

    W = base + sum_i w_i e_i d_i / sum_i w_i e_i,   w_i = mean(d_i^2) / sum_j mean(d_j^2)

d_i the changes where the variance over models is among the largest (the share `select_topk` of those that vary at all), e_i 1 where d_i has the sign
of sum_j d_j. Wan et al. 2024, arXiv 2408.07990 (FuseChat), section 3.3. The same as mergekit's `sce`, computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Base, Draw
from tempering.methods.merges._largest import largest
from tempering.methods.merges._vectors import against, wide


@dataclass(frozen=True)
class SCE:
    """Select, calculate, erase."""

    base: ClassVar[Base] = "needed"
    select_topk: float = 1.0
    """Share of the entries that vary between models, the most varying first."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        start = wide(against(base, self))
        deltas = [wide(tensor).sub_(start) for tensor in tensors]
        if self.select_topk < 1:
            middle = sum(deltas[1:], deltas[0]) / len(deltas)
            spread = torch.zeros_like(start)
            for delta in deltas:
                spread += (delta - middle) ** 2
            spread /= len(deltas)
            selected = largest(spread.view(-1), int(int(spread.count_nonzero()) * max(0.0, self.select_topk))).view(spread.shape)
            deltas = [delta.mul_(selected) for delta in deltas]
        up = sum(deltas[1:], deltas[0]) >= 0
        energy = [float((delta**2).mean()) for delta in deltas]
        # Where nothing changed, every model weighs the same.
        weights = [e / sum(energy) if sum(energy) >= 1e-6 else 1 / len(deltas) for e in energy]
        total, divisor = torch.zeros_like(start), torch.zeros_like(start)
        for delta, weight in zip(deltas, weights, strict=True):
            agrees = torch.where(up, delta > 0, delta < 0)
            total.add_(delta.mul_(agrees), alpha=weight)
            divisor.add_(agrees, alpha=weight)
        return total.div_(divisor.clamp_(min=1e-6)).add_(start).to(tensors[0].dtype)


CASES = (
    MergeCase("energies 6.5 and 5 weigh; the larger sign wins", SCE(), [[4, 3], [2, -2]], [1 + (6.5 * 3 + 5) / 11.5, -2], base=[1, 1]),
    MergeCase(
        "of three entries that vary the two that vary most, the first of equal ones; energies 5 and 1.25 of those",
        SCE(select_topk=0.7),
        [[4, 0, 2, 0], [-2, 0, 1, 1]],
        [4, 0, 0.8 * 2 + 0.2 * 1, 0],
        base=[0, 0, 0, 0],
    ),
    MergeCase("next to no energy: the plain mean", SCE(), [[1.0001], [1.0003]], [1.0002], base=[1.0]),
)
