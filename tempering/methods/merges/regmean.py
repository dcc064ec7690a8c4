"""RegMean: a linear layer whose outputs are as near as they can be to what every model's own layer gives on its own data.

    W = argmin_W sum_i |X_i W^T - X_i W_i^T|^2 = (sum_i W_i G_i) (sum_i G_i)^-1,   G_i = X_i^T X_i

Jin et al. 2022, arXiv 2212.09849. Entries of G_i off the diagonal are multiplied by `alpha`; with 1 it is least squares exactly. X_i is what goes
into the layer in model i on the rows of `calibrate`, all their tokens. All tensors but the weights of `nn.Linear` are averaged plainly, and so is
what no input reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Base, Draw, Statistic
from tempering.methods.merges._least import solved


@dataclass(frozen=True)
class RegMean:
    """Least squares over all models' inputs."""

    base: ClassVar[Base] = "none"
    statistic: ClassVar[Statistic] = "gram"
    alpha: float = 0.9
    """Factor of products of different inputs."""

    def __call__(self, base: Tensor | None, tensors: Sequence[Tensor], draw: Draw, known: Sequence[Tensor | None]) -> Tensor:
        first = tensors[0]
        mean = first.double() + torch.stack([tensor.double() - first.double() for tensor in tensors]).mean(0)
        grams = [self._shrunk(gram.double()) for gram in known if gram is not None]
        if len(grams) == len(tensors):
            # Changes from the average: where no input reaches there are none, and equal models give that model to the bit.
            change = torch.stack([(tensor.double() - mean) @ gram for tensor, gram in zip(tensors, grams, strict=True)]).sum(0)
            mean += solved(torch.stack(grams).sum(0), change.T).T
        return mean.to(first.dtype)

    def _shrunk(self, gram: Tensor) -> Tensor:
        return self.alpha * gram + (1 - self.alpha) * gram.diag().diag()


CASES = (
    # 0.5 * 3 / (0.5 + 1.5) and so on: with diagonal products each input is an average of its own.
    MergeCase("inputs that do not meet", RegMean(), [[[4, 0]], [[0, 2]]], [[1, 1.5]], known=[[[0.5, 0], [0, 1]], [[1.5, 0], [0, 3]]]),
    # x = (1, 1) in the first model, whose output is 3; (1, 0) and (0, 1) in the second, -1 and 2: G = [[2, 1], [1, 2]], right side (2, 5).
    MergeCase("least squares", RegMean(alpha=1), [[[1, 2]], [[-1, 2]]], [[-1 / 3, 8 / 3]], known=[[[1, 1], [1, 1]], [[1, 0], [0, 1]]]),
    # The same with half of the products of different inputs: G = [[2, .5], [.5, 2]], right side (1 + 1 - 1, 0.5 + 2 + 2).
    MergeCase("shrunk", RegMean(alpha=0.5), [[[1, 2]], [[-1, 2]]], [[-1 / 15, 34 / 15]], known=[[[1, 1], [1, 1]], [[1, 0], [0, 1]]]),
    MergeCase("no input reaches the second column", RegMean(), [[[1, 2]], [[4, 6]]], [[3, 4]], known=[[[1, 0], [0, 0]], [[2, 0], [0, 0]]]),
    MergeCase("not a linear layer", RegMean(), [[1, 2], [4, 6]], [2.5, 4], known=[None, None]),
    MergeCase("known of one model alone", RegMean(), [[[1, 2]], [[4, 6]]], [[2.5, 4]], known=[[[1, 0], [0, 1]], None]),
)
EQUIVALENT = {"__call__:constant:1": "whichever model the changes are taken from, they are taken from one"}
