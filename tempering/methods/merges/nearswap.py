"""NearSwap: where a second model's entry is near the base's it takes its place; the further away, the less of it.

    W = base + min(1, t / |W_1 - base|) * (W_1 - base)

From the recipe of the model QuartetAnemoi-70B (alchemonaut 2024): entries move by at most t. The same as mergekit's `nearswap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against


@dataclass(frozen=True)
class NearSwap:
    """The base, moved towards another model by at most t in each entry."""

    base: ClassVar[Base] = "first"
    t: float = 0.001
    """The furthest that an entry moves; at 0 the base stays."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        if len(tensors) != 1:
            raise UserError(f"nearswap is between two models, and {len(tensors) + 1} are given")
        start, other = against(base, self), tensors[0]
        share = (self.t / (start - other).abs_().clamp_(min=1e-6)).clamp_(0, 1)
        return (share * other).add_((1 - share).mul_(start))


CASES = (
    MergeCase(
        "near ones are swapped, far ones move by t; nothing moves by nothing",
        NearSwap(t=0.5),
        [[1.25, 4, -1, 0]],
        [1.25, 1.5, 0.5, 0],
        base=[1, 1, 1, 0],
    ),
)
