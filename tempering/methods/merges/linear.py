"""Weighted average of weights: a model soup, where the models were trained from one start.

    W = sum_i w_i W_i / sum_i w_i

Wortsman et al. 2022, arXiv 2203.05482, section 3 (the uniform soup where all weights are equal); between models that were trained for
a reward each, rewarded soups (Rame et al. 2023, arXiv 2306.04488). `normalize` off leaves the division out. The same as mergekit's `linear`: computed
in float32, rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw, Each
from tempering.methods.merges._vectors import BLOCK, blocks, each

CATALOGUE = ("S071",)


@dataclass(frozen=True)
class Linear:
    """The average of all models."""

    base: ClassVar[Base] = "none"
    weight: Each = 1.0
    """Of each model."""
    normalize: bool = True
    """Divide by the sum of the weights."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        weights = each(self.weight, len(tensors), "weight")
        if self.normalize and sum(weights) == 0:
            raise UserError("linear: the weights sum to 0, so they cannot be normalised; change one, or set normalize to false")
        kind = torch.promote_types(tensors[0].dtype, torch.float32)
        divisor = torch.tensor(weights, dtype=kind).sum() if self.normalize else torch.ones((), dtype=kind)
        # One room for all sums: memory that is new costs more than what is done in it.
        room = torch.empty(BLOCK, dtype=kind)
        for tensors_N in blocks(*tensors):
            total_N = room[: len(tensors_N[0])].zero_()
            for tensor_N, weight in zip(tensors_N, weights, strict=True):
                # Of a shape, not a plain number: then the product is rounded as mergekit's is.
                total_N.addcmul_(tensor_N, torch.full((1,), weight, dtype=kind))
            tensors_N[0].copy_(total_N if divisor == 1 else total_N.div_(divisor))
        return tensors[0]


CASES = (
    MergeCase("the plain average", Linear(), [[1, -2, 3.5], [3, 4, -0.5]], [2, 1, 1.5]),
    MergeCase("weights count by their share", Linear(weight=(3, 1)), [[1, -2], [3, 4]], [1.5, -0.5]),
    MergeCase("without division, three models", Linear(weight=(2, -1, 0.5), normalize=False), [[1, -2], [3, 4], [6, 8]], [2, -4]),
)
EQUIVALENT = dict.fromkeys(("__call__:constant:1", "__call__:constant:2"), "all tensors are of one shape and type")
