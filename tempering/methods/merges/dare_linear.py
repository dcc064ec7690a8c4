"""DARE: entries of each change are dropped at random and the rest made larger in turn; what is left is added up.

Yu et al. 2023, arXiv 2311.03099, section 3.2: drop a share of the entries of a task vector, rescale the rest. The paper divides by the share that is
kept; mergekit's `dare_linear`, which this equals for the same random numbers, scales so that the L1 norm of each tensor's change stays. Both agree in
expectation for entries of like size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Draw, Each
from tempering.methods.merges._vectors import TaskVectors, each, kept_at_random, rescaled


@dataclass(frozen=True)
class DareLinear(TaskVectors):
    """Random entries of each change."""

    rescale: bool = True
    """Keep the L1 norm of each change."""
    density: Each = 1.0
    """The share of entries that are kept, in expectation."""

    def thinning(self, count: int) -> Sequence[Any]:
        return each(self.density, count, "density")

    def thin(self, delta: Tensor, settings: Any, draw: Draw) -> Tensor:
        if settings >= 1:
            return delta
        before = delta.abs().sum()
        thinned = kept_at_random(delta, settings, draw)
        return rescaled(thinned, before) if self.rescale else thinned


CASES = (
    MergeCase(
        "kept below the density; each change keeps its L1 norm",
        DareLinear(density=(0.5, 0.25)),
        [[2, 2, 1, -3], [1, 3, 4, 2]],
        [2 * 8 / 5 + 0, 0 + 10, 0, -3 * 8 / 5],
        base=[0, 0, 0, 0],
        uniform=[0.1, 0.5, 0.9, 0.49, 0.25, 0.2, 0.99, 0.7],
    ),
    MergeCase(
        "without rescaling, weighted, put on a base; one change is kept whole and draws nothing",
        DareLinear(rescale=False, density=(0.5, 1), weight=(2, 1), lambda_=0.5),
        [[3, 4], [2, 2]],
        [1 + 2 + 0.5, 1 + 0.5],
        base=[1, 1],
        uniform=[0.4, 0.6],
    ),
    MergeCase("nothing is left of a change", DareLinear(density=0.5), [[3, 4]], [1, 1], base=[1, 1], uniform=[0.5, 0.6]),
)
