"""TIES: of each model's change only the largest entries are kept, each entry's sign is elected, and only changes of that sign are averaged.

Yadav et al. 2023, arXiv 2306.01708, section 3: trim (keep the `density` largest magnitudes of a tensor), elect (the sign of the sum of weighted
changes; 0 counts as up), disjoint merge (divide by the weights of those that agree). The paper trims over all weights of a model at once and gives
every model the same weight; per tensor, and with weights, is mergekit's `ties`, which this equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tempering.cases import MergeCase
from tempering.merges import Draw, Each
from tempering.methods.merges._largest import largest
from tempering.methods.merges._vectors import TaskVectors, each


@dataclass(frozen=True)
class Ties(TaskVectors):
    """Largest changes of the elected sign."""

    elect: ClassVar[bool] = True
    normalize: bool = True
    density: Each = 1.0
    """The share of each change that is kept; one entry at least, unless it is 0."""

    def thinning(self, count: int) -> Sequence[Any]:
        return each(self.density, count, "density")

    def thin(self, delta: Tensor, settings: Any, draw: Draw) -> Tensor:
        if settings >= 1:
            return delta
        if settings <= 0:
            return delta.zero_()
        kept = largest(delta.abs().view(-1), max(1, int(settings * delta.numel())))
        return delta.mul_(kept.view(delta.shape))


CASES = (
    MergeCase(
        "half is kept, the first of equal ones; then +4 and +2 agree, -3 beats +1, +3 stands alone",
        Ties(density=0.5),
        [[4, 1, 0.5, -1], [2, -3, 0.25, 1]],
        [3, -3, 0, 0],
        base=[0, 0, 0, 0],
    ),
    MergeCase(
        "weights elect and average; equal and opposite is up",
        Ties(weight=(1, 3)),
        [[4, 1, 9], [2, -3, 9]],
        [1 + 1.5, -3, 9],
        base=[1, 0, 9],
    ),
    MergeCase("a tie of signs goes up", Ties(weight=(1, 2), lambda_=0.5), [[4], [-2]], [2], base=[0]),
    MergeCase("summed, not averaged", Ties(normalize=False, density=(1, 0.5)), [[4, -1], [2, -3]], [4, -4], base=[0, 0]),
)
EQUIVALENT = {
    "thin:constant:1": "where all is kept the short cut gives what the long way gives",
    "thin:negate:2": "minus nothing is nothing",
}
