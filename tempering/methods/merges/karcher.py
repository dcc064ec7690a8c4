"""Karcher mean: the point of the sphere whose squared great-circle distances to all models' directions sum to the least, with the mean norm.

    u <- exp_u( (1/n) sum_i log_u(u_i) ),   W = (mean_i |W_i|) u

from the direction of the mean of directions on, until the step is shorter than `tol` or `max_iter` steps were taken. The Riemannian centre of mass
(Karcher 1977), of tensors taken as one vector. The same as mergekit's `karcher`, computed in float32; tensors without a direction (norm below `tol`)
count for the norm alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import wide


@dataclass(frozen=True)
class Karcher:
    """The centre of all models' directions."""

    base: ClassVar[Base] = "none"
    max_iter: int = 10
    """Most steps."""
    tol: float = 1e-5
    """Angle, and norm, below which there is nothing."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        points = [wide(tensor) for tensor in tensors]
        norms = [float(torch.linalg.vector_norm(point)) for point in points]
        units = [point.div_(norm) for point, norm in zip(points, norms, strict=True) if norm > self.tol]
        if not units:
            return torch.zeros_like(tensors[0])
        centre = torch.zeros_like(units[0])
        for unit in units:
            centre.add_(unit, alpha=1 / len(units))
        size = float(torch.linalg.vector_norm(centre))
        centre = centre.div_(size) if size >= self.tol else units[0].clone()
        for _ in range(self.max_iter):
            step = torch.zeros_like(centre)
            for unit in units:
                cosine = max(-1.0, min(1.0, float(torch.dot(centre.view(-1), unit.view(-1)))))
                angle = math.acos(cosine)
                if angle >= self.tol:
                    share = angle / math.sin(angle) / len(units)
                    step.add_(unit, alpha=share).sub_(centre, alpha=share * cosine)
            length = float(torch.linalg.vector_norm(step))
            if length < self.tol:
                break
            centre.mul_(math.cos(length)).add_(step, alpha=math.sin(length) / length)
            centre.div_(torch.linalg.vector_norm(centre))
        return centre.mul_(sum(norms) / len(norms)).to(tensors[0].dtype)


CASES = (
    MergeCase("two at right angles, norms 1 and 3", Karcher(), [[1.0, 0], [0, 3.0]], [math.sqrt(2), math.sqrt(2)]),
    MergeCase(
        "three on a circle at 0, 0 and 60 degrees: the mean angle is 20, where the mean direction's is not",
        Karcher(),
        [[1.0, 0], [4.0, 0], [0.5, math.sqrt(0.75)]],
        [2 * math.cos(math.pi / 9), 2 * math.sin(math.pi / 9)],
    ),
    MergeCase("nothing has no direction but counts for the norm", Karcher(), [[0.0, 0], [0, 3.0]], [0, 1.5]),
    MergeCase("opposite ones: from the first on", Karcher(max_iter=0), [[2.0, 0], [-2.0, 0]], [2, 0]),
    MergeCase("nothing at all", Karcher(), [[0.0, 0], [0, 0.0]], [0, 0]),
)
