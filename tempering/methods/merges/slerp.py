"""SLERP: from one model's weights to another's along the great circle between them, so that equal norms are kept.

    W = sin((1 - t) a) / sin(a) * W_0 + sin(t a) / sin(a) * W_1,   cos(a) = <W_0, W_1> / (|W_0| |W_1|)

Shoemake 1985, for tensors taken as one vector; a straight line where |cos(a)| > 0.9995. W_0 is the base, or the first model. The same as mergekit's
`slerp` but for the last bits of the angle, which is summed in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against, blocks, wide

STRAIGHT = 0.9995
"""Cosine from which on the arc is taken for a line."""


@dataclass(frozen=True)
class Slerp:
    """A point of the arc from the base to one other model."""

    base: ClassVar[Base] = "first"
    t: float = 0.5
    """0 is the base, 1 the other."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        if len(tensors) != 1:
            raise UserError(f"slerp is between two models, and {len(tensors) + 1} are given; take multislerp or karcher for more")
        first, second = against(base, self), tensors[0]
        product = square = other = 0.0
        for first_N, second_N in blocks(first, second):
            a_N, b_N = wide(first_N), wide(second_N)
            product, square, other = product + float(a_N @ b_N), square + float(a_N @ a_N), other + float(b_N @ b_N)
        # Nothing has no direction and stays as it is.
        for norm in (math.sqrt(square), math.sqrt(other)):
            product = product / norm if norm > 1e-8 else product
        at, to = 1 - self.t, self.t
        if abs(product) <= STRAIGHT:
            angle = math.acos(product)
            at, to = math.sin(at * angle) / math.sin(angle), math.sin(to * angle) / math.sin(angle)
        for first_N, second_N in blocks(first, second):
            second_N.copy_((wide(first_N) * at).add_(wide(second_N), alpha=to))
        return second


CASES = (
    MergeCase("a third of a right angle, norms differ", Slerp(t=1 / 3), [[0, 2.0]], [math.sqrt(3) / 2, 1.0], base=[1.0, 0]),
    MergeCase("nearly one direction: the straight line", Slerp(t=0.25), [[2.0, 0.01]], [1.25, 0.0025], base=[1.0, 0]),
    MergeCase("nearly opposite: the straight line too", Slerp(t=0.25), [[-3.0, 0.01]], [0, 0.0025], base=[1.0, 0]),
    MergeCase("60 degrees", Slerp(t=0.5), [[1.0, math.sqrt(3)]], [math.sqrt(3), 1], base=[2.0, 0]),
)
