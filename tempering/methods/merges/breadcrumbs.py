"""Model breadcrumbs: of each change the largest outliers and the many small entries are both left out; what is between is added up.

Davari and Belilovsky 2023, arXiv 2312.06795, section 3: per tensor, the share `gamma` of largest magnitudes is taken away, then as many small ones as
leave the share `density`. The same as mergekit's `breadcrumbs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Draw, Each
from tempering.methods.merges._largest import largest
from tempering.methods.merges._vectors import TaskVectors, each, rescaled


@dataclass(frozen=True)
class Breadcrumbs(TaskVectors):
    """Entries of middling size of each change."""

    rescale: bool = False
    """Keep the L1 norm of each change."""
    density: Each = 1.0
    """The share of entries that are kept."""
    gamma: Each = 0.01
    """The share of largest entries that are left out."""

    def thinning(self, count: int) -> Sequence[Any]:
        return list(zip(each(self.density, count, "density"), each(self.gamma, count, "gamma"), strict=True))

    def thin(self, delta: Tensor, settings: Any, draw: Draw) -> Tensor:
        density, gamma = settings
        if density >= 1:
            return delta
        size = delta.abs().view(-1)
        before, kept = size.sum(), int(density * size.numel())
        # Where both shares ask for more than there is, the density is kept.
        outliers = min(int(gamma * size.numel()), size.numel() - kept)
        # Among equal ones, the last count as the largest.
        between = largest(size, kept + outliers, last=True) & ~largest(size, outliers, last=True)
        delta.mul_(between.view(delta.shape))
        return rescaled(delta, before) if self.rescale else delta


CASES = (
    MergeCase(
        "of five, the largest goes and the two smallest",
        Breadcrumbs(density=0.4, gamma=0.2),
        [[1, -9, 2, 1, 3]],
        [0, 0, 2, 0, 3],
        base=[0, 0, 0, 0, 0],
    ),
    MergeCase("equal outliers: the last goes", Breadcrumbs(density=0.5, gamma=0.25), [[4, 1, 4, 2]], [4, 0, 0, 2], base=[0, 0, 0, 0]),
    MergeCase(
        "by each model's own shares, rescaled to the change's L1 norm, weighted",
        Breadcrumbs(density=(0.5, 1), gamma=(0.25, 0.5), rescale=True, weight=(1, 0.5)),
        [[1, 4, 2, 3], [2, 2, 2, 2]],
        [1, 1, 1 + 2 * 10 / 5, 1 + 3 * 10 / 5],
        base=[0, 0, 0, 0],
    ),
    MergeCase("more outliers than the density leaves", Breadcrumbs(density=0.5, gamma=0.75), [[1, 4, 2, 3]], [1, 0, 2, 0], base=[0, 0, 0, 0]),
    MergeCase("too few entries for an outlier", Breadcrumbs(density=0.5, gamma=0.2), [[1, 4, 2, 3]], [0, 4, 0, 3], base=[0, 0, 0, 0]),
)
EQUIVALENT = {"thin:constant:1": "where all is kept the short cut gives what the long way gives"}
