"""Arcee fusion: of one model's change from a base only the entries that stand out are taken over.

    importance = |W - base| * KL(softmax(W) || softmax(base)) of its row,   taken where importance >= median + 1.5 * (q3 - q1)

a rule of thumb for outliers (Tukey) applied to each tensor. From mergekit's `arcee_fusion`, which this equals, computed in float32, for tensors of at
most a million entries; of larger ones mergekit takes the quantiles of a random million, here they are those of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against, wide


@dataclass(frozen=True)
class ArceeFusion:
    """The entries of a change that stand out."""

    base: ClassVar[Base] = "first"

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        if len(tensors) != 1:
            raise UserError(f"arcee_fusion puts one model on a base, and {len(tensors)} are given beside it")
        start, other = wide(against(base, self)), wide(tensors[0])
        p, q = (x.softmax(-1) + 1e-8 for x in (other, start))
        divergence = (p * (p / q).log()).sum(-1, keepdim=True)
        delta = other - start
        importance = (delta.abs() * divergence).view(-1)
        # The entry at the place rounded down, not interpolated.
        q1, middle, q3 = (importance.kthvalue(1 + int(share * (importance.numel() - 1))).values for share in (0.25, 0.5, 0.75))
        taken = importance >= middle + 1.5 * (q3 - q1)
        return delta.mul_(taken.view(delta.shape)).add_(start).to(tensors[0].dtype)


CASES = (
    MergeCase(
        "within one row importance is the size of the change: of 1 to 5 and 7 the quartiles are 2, 3 and 4, so it begins at 6",
        ArceeFusion(),
        [[1, -2, 3, 4, -5, 7]],
        [0, 0, 0, 0, 0, 7],
        base=[0, 0, 0, 0, 0, 0],
    ),
    MergeCase(
        "a row that is only shifted has the same softmax and no importance; the other's begins at three times its smallest",
        ArceeFusion(),
        [[[6, 6, 6, 6], [2, 3, 3.5, 15]]],
        [[1, 1, 1, 1], [1, 1, 1, 15]],
        base=[[1, 1, 1, 1], [1, 1, 1, 1]],
    ),
)
