"""Multi-SLERP: a weighted mean of directions, with the weighted mean of the norms, for any number of models.

    W = (sum_i w_i |W_i|) * s / |s|,   s = sum_i w_i W_i / |W_i|

with W_i taken as one vector, or as its change from a base if one is given. Goddard 2025, "Multi-SLERP", a blog post: there the directions go to the
tangent space at s / |s|, are averaged and come back; but their average there is s less its part along s, which is nothing, so the step changes
nothing. The same as mergekit's `multislerp`, computed in float32.
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
class MultiSlerp:
    """The spherical mean of all models, or of their changes."""

    base: ClassVar[Base] = "optional"
    weight: Each = 1.0
    """Of each model."""
    normalize_weights: bool = True
    """Divide the weights by their sum."""
    eps: float = 1e-8
    """Added to norms that are divided by."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        dtype = tensors[0].dtype
        if len(tensors) == 1:
            return tensors[0]
        start = None if base is None else wide(base)
        points = [wide(tensor) if start is None else wide(tensor).sub_(start) for tensor in tensors]
        weights = each(self.weight, len(tensors), "weight")
        if self.normalize_weights:
            weights = tuple(w / sum(weights) for w in weights)
        norms = [float(torch.linalg.vector_norm(point)) for point in points]
        mean = _sum(points, [w / (norm + self.eps) for w, norm in zip(weights, norms, strict=True)])
        size = float(torch.linalg.vector_norm(mean))
        if size >= self.eps:
            result = mean.mul_(sum(w * norm for w, norm in zip(weights, norms, strict=True)) / size)
        elif len(points) == 2:
            result = _sum(points, weights)
        else:
            raise UserError("multislerp: the weighted directions of a tensor cancel, so they have no mean; change a weight")
        return (result if start is None else result.add_(start)).to(dtype)


def _sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


CASES = (
    MergeCase("two right angles apart, norms 1 and 3", MultiSlerp(), [[1.0, 0], [0, 3.0]], [math.sqrt(2), math.sqrt(2)]),
    MergeCase(
        "of changes, weights by their share",
        MultiSlerp(weight=(3, 1)),
        [[3.0, 1], [1, 5.0]],
        [1 + 2.5 * 3 / math.sqrt(10), 1 + 2.5 / math.sqrt(10)],
        base=[1.0, 1],
    ),
    MergeCase(
        "weights as they are",
        MultiSlerp(weight=(2, 1, 1), normalize_weights=False),
        [[1.0, 0], [0, 2.0], [0, 2.0]],
        [6 / math.sqrt(2), 6 / math.sqrt(2)],
    ),
    MergeCase("opposite ones: the straight line", MultiSlerp(weight=(1, 1)), [[2.0, 0], [-4.0, 0]], [-1, 0]),
    MergeCase("only one", MultiSlerp(weight=2), [[1.0, 2]], [1, 2], base=[5.0, 5]),
)
EQUIVALENT = {"__call__:flip-sign:1": "a guard against dividing by nothing, far below rounding"}
