"""NuSLERP: between two models along the arc, by weights, for whole tensors or for rows and columns by themselves.

    W = sin((1 - t) a) / sin(a) * W_0 + sin(t a) / sin(a) * W_1,   t = w_1 / (w_0 + w_1)

of the tensors, or of their changes from a base if one is given. The same as mergekit's `nuslerp` (its option names are kept), computed in float32.
Unlike `slerp`, the arc is followed however short it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw, Each
from tempering.methods.merges._vectors import each, wide


@dataclass(frozen=True)
class NuSlerp:
    """A point of the arc between two models, or between their changes."""

    base: ClassVar[Base] = "optional"
    weight: Each = 1.0
    """Of each of the two; their ratio counts."""
    nuslerp_flatten: bool = True
    """Take a tensor as one vector."""
    nuslerp_row_wise: bool = False
    """Where it is not: whether vectors lie along the first dimension (columns of the matrix), not the last."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        if len(tensors) != 2:
            raise UserError(f"nuslerp is between two models beside the base, and {len(tensors)} are given; take multislerp for more")
        first_weight, second_weight = each(self.weight, 2, "weight")
        whole = first_weight + second_weight
        t = second_weight / whole if abs(whole) >= 1e-6 else 0.5
        start = None if base is None else wide(base)
        first, second = (wide(tensor) if start is None else wide(tensor).sub_(start) for tensor in tensors)
        shape, along = first.shape, -1
        if self.nuslerp_flatten:
            first, second = first.view(-1), second.view(-1)
        elif self.nuslerp_row_wise:
            along = 0
        norms = [torch.linalg.vector_norm(x, dim=along, keepdim=True).clamp(min=1e-7) for x in (first, second)]
        cosine = (first * second).sum(along, keepdim=True) / norms[0] / norms[1]
        angle = cosine.clamp(-1, 1).acos()
        sine = angle.sin()
        straight = sine.abs() < 1e-8
        at = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
        to = torch.where(straight, t, (t * angle).sin() / sine)
        result = (first.mul_(at) + second.mul_(to)).view(shape)
        return (result if start is None else result.add_(start)).to(tensors[0].dtype)


CASES = (
    MergeCase("a right angle, a third of the way", NuSlerp(weight=(2, 1)), [[1.0, 0], [0, 4.0]], [math.sqrt(3) / 2, 2]),
    MergeCase(
        "60 degrees, a third of the way, norms 1 and 2",
        NuSlerp(weight=(2, 1)),
        [[1.0, 0], [1.0, math.sqrt(3)]],
        [
            (math.sin(2 * math.pi / 9) + math.sin(math.pi / 9)) / math.sin(math.pi / 3),
            math.sqrt(3) * math.sin(math.pi / 9) / math.sin(math.pi / 3),
        ],
    ),
    MergeCase("straight on", NuSlerp(weight=(1, 3)), [[1.0, 0], [3.0, 0]], [2.5, 0]),
    MergeCase("of changes", NuSlerp(), [[3.0, 1], [1, 2.0]], [1 + math.sqrt(2), 1 + math.sqrt(0.5)], base=[1.0, 1]),
    MergeCase(
        "rows by themselves: one a right angle, one straight on",
        NuSlerp(weight=(1, 3), nuslerp_flatten=False),
        [[[1.0, 0], [1, 1]], [[0, 1.0], [3, 3]]],
        [[math.sin(math.pi / 8), math.sin(3 * math.pi / 8)], [2.5, 2.5]],
    ),
    MergeCase(
        "columns by themselves",
        NuSlerp(nuslerp_flatten=False, nuslerp_row_wise=True),
        [[[1.0, 2], [0, 1]], [[0, 4.0], [1, 2]]],
        [[math.sqrt(0.5), 3], [math.sqrt(0.5), 1.5]],
    ),
    MergeCase("weights that cancel are halves", NuSlerp(weight=(1, -1)), [[1.0, 0], [0, 1.0]], [math.sqrt(0.5), math.sqrt(0.5)]),
)
