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

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against, wide

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
        first, second = wide(against(base, self)), wide(tensors[0])
        cosine = float(_unit(torch.dot(first.view(-1), second.view(-1)), first, second))
        at, to = 1 - self.t, self.t
        if abs(cosine) <= STRAIGHT:
            angle = math.acos(cosine)
            at, to = math.sin(at * angle) / math.sin(angle), math.sin(to * angle) / math.sin(angle)
        return (first * at).add_(second, alpha=to).to(tensors[0].dtype)


def _unit(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A product of two tensors as that of their directions; nothing has no direction and stays as it is."""
    for norm in (torch.linalg.vector_norm(first), torch.linalg.vector_norm(second)):
        product = product / norm if norm > 1e-8 else product
    return product


CASES = (
    MergeCase("a third of a right angle, norms differ", Slerp(t=1 / 3), [[0, 2.0]], [math.sqrt(3) / 2, 1.0], base=[1.0, 0]),
    MergeCase("nearly one direction: the straight line", Slerp(t=0.25), [[2.0, 0.01]], [1.25, 0.0025], base=[1.0, 0]),
    MergeCase("nearly opposite: the straight line too", Slerp(t=0.25), [[-3.0, 0.01]], [0, 0.0025], base=[1.0, 0]),
    MergeCase("60 degrees", Slerp(t=0.5), [[1.0, math.sqrt(3)]], [2 / math.sqrt(3), 1], base=[1.0, 0]),
)
