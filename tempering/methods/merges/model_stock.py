"""Model stock: the average of fine-tuned models, drawn towards their base as far as their directions disagree.

    W = t * mean_i W_i + (1 - t) * base,   t = n c / (1 + (n - 1) c)

with c the cosine between two models' changes. Jang et al. 2024, arXiv 2403.19522, equation 7. For more than two models the paper has one cosine; the
mean over all pairs is taken, as in mergekit's `model_stock`, which this equals, computed in float32. `filter_wise` has a cosine for every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.errors import UserError
from tempering.merges import Base, Draw
from tempering.methods.merges._vectors import against, wide


@dataclass(frozen=True)
class ModelStock:
    """The average, as far as the models agree."""

    base: ClassVar[Base] = "needed"
    filter_wise: bool = False
    """One cosine for every row of a tensor, not for all of it."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw) -> Tensor:
        start = wide(against(base, self))
        if len(tensors) < 2:
            raise UserError("model_stock needs two models or more beside the base: how far they agree is what it measures")
        deltas = [wide(tensor).sub_(start).view(*self._rows(start)) for tensor in tensors]
        norms = [torch.linalg.vector_norm(delta, dim=-1) for delta in deltas]
        pairs = list(combinations(range(len(deltas)), 2))
        products = [(deltas[i] * deltas[j]).sum(-1) / (norms[i] * norms[j]).clamp(min=1e-6) for i, j in pairs]
        cosine = torch.stack(products).clamp(-1, 1).mean(0)
        divisor = 1 + (len(deltas) - 1) * cosine
        # Models that point away from each other altogether have no such point: the base is kept.
        share = torch.where(divisor.abs() < 1e-6, 0, len(deltas) * cosine / divisor)
        mean = deltas[0]
        for delta in deltas[1:]:
            mean += delta
        mean *= (share / len(deltas)).unsqueeze(-1)
        return mean.view(start.shape).add_(start).to(tensors[0].dtype)

    def _rows(self, start: Tensor) -> tuple[int, ...]:
        """The shape in which the last dimension is what has one cosine."""
        return tuple(start.shape) if self.filter_wise and start.dim() > 1 else (1, -1)


CASES = (
    MergeCase("cosine 0.6: three quarters of the mean change", ModelStock(), [[6.0, 2], [4, 6.0]], [1 + 0.75 * 4, 2 + 0.75 * 2], base=[1.0, 2]),
    MergeCase("at right angles the base is all that is left", ModelStock(), [[3.0, 0], [0, 5.0]], [0, 0], base=[0.0, 0]),
    MergeCase(
        "three models, the mean of the pairs' cosines 0, 0.6 and 0.8",
        ModelStock(),
        [[1.0, 0], [0, 1.0], [3, 4.0]],
        [4 / 3 * (3 * 1.4 / 3) / (1 + 2 * 1.4 / 3), 5 / 3 * (3 * 1.4 / 3) / (1 + 2 * 1.4 / 3)],
        base=[0.0, 0],
    ),
    MergeCase(
        "rows by themselves",
        ModelStock(filter_wise=True),
        [[[5.0, 0], [3, 0]], [[3, 4.0], [0, 5]]],
        [[0.75 * 4, 0.75 * 2], [0, 0]],
        base=[[0.0, 0], [0, 0]],
    ),
    MergeCase("opposite ways: the base", ModelStock(), [[3.0, 1], [-1, 1.0]], [1, 1], base=[1.0, 1]),
    MergeCase("a vector has one row", ModelStock(filter_wise=True), [[5.0, 0], [3, 4.0]], [0.75 * 4, 0.75 * 2], base=[0.0, 0]),
)
