"""Fisher-weighted averaging: each weight is averaged with how surely each model knows it.

    W = sum_i w_i F_i W_i / sum_i w_i F_i,   F_i = E_x E_{y ~ p_i(y|x)} (grad log p_i(y|x))^2

The mode of the product of the models' posteriors, taken as Gaussians of diagonal precision F_i. Matena and Raffel 2021, arXiv 2111.09832. F_i is
computed on the rows of `calibrate`, with one answer for each row drawn from the model itself at the places that the row scores. A weight of which no
model's rows say anything (the embedding of a token that is not in them) is averaged plainly, where the paper has a small floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Base, Draw, Each, Statistic
from tempering.methods.merges._vectors import each, wide


@dataclass(frozen=True)
class Fisher:
    """The average of all models, weight by weight."""

    base: ClassVar[Base] = "none"
    statistic: ClassVar[Statistic] = "fisher"
    weight: Each = 1.0
    """Of each model."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw, known: Sequence[Tensor | None]) -> Tensor:
        first = tensors[0]
        start = wide(first)
        found = [torch.zeros_like(start) if one is None else one for one in known]
        unknown = torch.stack([one == 0 for one in found]).all(0)
        total, divisor = torch.zeros_like(start), torch.zeros_like(start)
        for tensor, one, weight in zip(tensors, found, each(self.weight, len(tensors), "weight"), strict=True):
            share = torch.where(unknown, torch.ones_like(one), one) * weight
            divisor += share
            # Changes from the first model, so that equal models give that model to the bit.
            total += share * (wide(tensor) - start)
        return (start + total / divisor).to(first.dtype)


CASES = (
    MergeCase("the surer model counts more", Fisher(), [[1, 8], [4, 2]], [3, 7], known=[[0.5, 2.5], [1, 0.5]]),
    MergeCase("three models, weighted", Fisher(weight=(1, 2, 0.5)), [[1.0], [4], [-2]], [4 / 7], known=[[1], [0.5], [3]]),
    MergeCase("nothing is known of the second, one model knows the third", Fisher(), [[0, 2, 5], [8, 6, 7]], [2, 4, 5], known=[[3, 0, 2], [1, 0, 0]]),
    MergeCase("one model's tensor was not seen at all", Fisher(), [[0, 2], [8, 6]], [0, 4], known=[[3, 0], None]),
)
EQUIVALENT = {"__call__:constant:1": "whichever model the changes are taken from, they are taken from one"}
