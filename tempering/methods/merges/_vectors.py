"""What merges of task vectors share: each model's change from a base is thinned, weighted, perhaps held to an elected sign, and all are added to it.

    W = base + lambda * sum_i w_i m_i thin(W_i - base) [ / sum_i w_i m_i ]

with m_i = 1, or (Yadav et al. 2023, arXiv 2306.01708, "elect sign" and "disjoint merge") 1 where the weighted change has the sign of the sum of all
weighted changes. mergekit calls this family generalized task arithmetic, and the order of roundings below is the one of its version 0.1.5, so that
results in bfloat16 are the same bits: weights are rounded to the tensors' type, products too, sums are not until they are whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tempering.errors import UserError
from tempering.merges import Base, Draw, Each

BLOCK = 2**18
"""Entries that are put together, or drawn random numbers for, at a time: what the processor keeps near itself. Sums are float32, and those of a whole
tensor would be the largest thing in memory."""


def each(setting: Each, count: int, what: str) -> tuple[float, ...]:
    """A setting of every model, spelled out.

    Raises UserError where it gives another number of values than there are models.
    """
    values = setting if isinstance(setting, tuple) else (setting,) * count
    if len(values) != count:
        raise UserError(f"{what}: {len(values)} values for {count} models; give one for each, in order, or one for all")
    return tuple(float(value) for value in values)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own type where that is finer."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape side by side, as views of at most `BLOCK` entries [N]."""
    return zip(*(tensor.view(-1).split(BLOCK) for tensor in tensors), strict=True)


def against(base: Tensor | None, method: object) -> Tensor:
    """The base's tensor. Raises UserError where there is none."""
    if base is None:
        raise UserError(f"{type(method).__name__} needs a base model: the one whose changes are merged")
    return base


def rescaled(thinned: Tensor, before: Tensor) -> Tensor:
    """What is left of a change, in place, with the L1 norm that all of it had (`before`); as it is where either is next to nothing."""
    after = thinned.abs().sum()
    return thinned if before < 1e-7 or after < 1e-7 else thinned.mul_(before / after)


def kept_at_random(delta: Tensor, density: float, draw: Draw) -> Tensor:
    """The change, in place, with every entry left out but for a share."""
    # The share is rounded to the change's type where that is bfloat16, as in mergekit.
    share = torch.tensor(density, dtype=delta.dtype if delta.dtype == torch.bfloat16 else torch.float32)
    for piece in delta.view(-1).split(BLOCK):
        piece.mul_(draw(piece.shape) < share)
    return delta


@dataclass(frozen=True)
class TaskVectors:
    """The sum of weighted changes; a method says how they are thinned and whether their signs must agree."""

    base: ClassVar[Base] = "needed"
    elect: ClassVar[bool] = False
    """Whether only changes of the elected sign count."""

    weight: Each = 1.0
    """Of each model's change."""
    normalize: bool = False
    """Divide by the sum of the weights that count."""
    lambda_: float = 1.0
    """How much of the merged change is put on the base."""

    def thin(self, delta: Tensor, settings: Any, draw: Draw) -> Tensor:
        """What is kept of one model's change; may be written in place.

        Args:
            settings: this model's own, by `thinning`.
        """
        return delta

    def thinning(self, count: int) -> Sequence[Any]:
        """What `thin` needs to know, for each of the models."""
        return (None,) * count

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        start = against(base, self)
        weights = [torch.tensor(w, dtype=start.dtype) for w in each(self.weight, len(tensors), "weight")]
        deltas = []
        for tensor, weight, settings in zip(tensors, weights, self.thinning(len(tensors)), strict=True):
            deltas.append(self.thin(tensor.sub_(start), settings, draw).mul_(weight))
        for base_N, *deltas_N in blocks(start, *deltas):
            deltas_N[0].copy_(self._put(base_N, deltas_N, weights))
        return deltas[0]

    def _put(self, base_N: Tensor, deltas_N: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """The base and the weighted changes [N, written over] put together."""
        total = _sum(deltas_N)
        divisor = torch.stack(list(weights)).sum()
        if self.elect:
            # 1 where the changes go up on the whole, else -1: a change times that is positive where it agrees. Comparing and choosing take longer.
            sign = torch.copysign(torch.ones(()), total)
            for delta_N in deltas_N:
                delta_N.mul_(sign.to(base_N.dtype)).clamp_(min=0)
            if self.normalize:
                divisor = torch.zeros_like(total)
                for delta_N, weight in zip(deltas_N, weights, strict=True):
                    divisor.add_(delta_N.sign(), alpha=float(weight))
                divisor = divisor.to(base_N.dtype)
            total = _sum(deltas_N).mul_(sign)
        merged = total.to(base_N.dtype)
        if self.normalize:
            merged /= torch.where(divisor.abs() < 1e-8, 1, divisor)
        if self.lambda_ != 1:
            merged *= self.lambda_
        return merged.add_(base_N)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = wide(tensors[0]).clone() if tensors[0].dtype == wide(tensors[0]).dtype else wide(tensors[0])
    for tensor in tensors[1:]:
        total += tensor
    return total
