"""Passthrough: a tensor as it is, or scaled: what models stacked of slices are made with ("frankenmerges").

The same as mergekit's `passthrough`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw, Each
from tempering.methods.merges._vectors import each


@dataclass(frozen=True)
class Passthrough:
    """One model's tensor."""

    base: ClassVar[Base] = "none"
    scale: Each = 1.0
    """What it is multiplied with."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        if len(tensors) != 1:
            raise UserError(f"passthrough takes one model at a time, and a slice has {len(tensors)} sources")
        (scale,) = each(self.scale, 1, "scale")
        return tensors[0] if scale == 1 else tensors[0].mul_(scale)


CASES = (
    MergeCase("as it is", Passthrough(), [[1, -2]], [1, -2]),
    MergeCase("doubled", Passthrough(scale=2), [[1, -2]], [2, -4]),
    MergeCase("scaled", Passthrough(scale=(0.5,)), [[1, -2]], [0.5, -1]),
)
