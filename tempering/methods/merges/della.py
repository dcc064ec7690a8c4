"""DELLA: entries of each change are dropped at random, the small ones more often; those of the elected sign are averaged.

    keep probability of an entry = density - epsilon + 2 * epsilon * (rank - 1) / (entries of its row - 1)

Deep et al. 2024, arXiv 2406.11617, section 3 (MagPrune), ranks by magnitude within a row, the smallest first. The paper divides an entry by its own
keep probability; mergekit's `della`, which this equals for the same random numbers, keeps the L1 norm of each tensor's change. Elected as in TIES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tempering.cases import MergeCase
from tempering.methods.merges.della_linear import DellaLinear


@dataclass(frozen=True)
class Della(DellaLinear):
    """Random large entries of the elected sign."""

    elect: ClassVar[bool] = True
    normalize: bool = True


CASES = (
    MergeCase(
        "kept below 0.25, 0.5 and 0.75 by rank; the signs that win are averaged",
        Della(density=0.5, epsilon=0.25, rescale=False),
        [[3, -1, 2], [-6, 2, 1]],
        [-6, 2, 2],
        base=[0, 0, 0],
        uniform=[0.7, 0.3, 0.4, 0.6, 0.4, 0.3],
    ),
    MergeCase("divided by the weights that agree", Della(weight=(1, 3)), [[2, 5], [4, -1]], [3.5, 5], base=[0, 0]),
)
