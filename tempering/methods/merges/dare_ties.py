"""DARE with elected signs: random entries of each change, of which those of the sign that weighs more are added up.

Yu et al. 2023, arXiv 2311.03099 (dropping and rescaling) before the election of Yadav et al. 2023, arXiv 2306.01708. As in mergekit's `dare_ties`,
which this equals for the same random numbers, the sum is not divided by the weights unless asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tempering.cases import MergeCase
from tempering.methods.merges.dare_linear import DareLinear


@dataclass(frozen=True)
class DareTies(DareLinear):
    """Random entries of the elected sign."""

    elect: ClassVar[bool] = True


CASES = (
    MergeCase(
        "the first change keeps its first entry, the second both; the larger sign wins",
        DareTies(density=0.5),
        [[2, 2], [-3, 1]],
        [4, 1],
        base=[0, 0],
        uniform=[0.1, 0.6, 0.2, 0.3],
    ),
    MergeCase("divided by the weights that agree", DareTies(normalize=True, weight=(1, 3)), [[2, 5], [4, -1]], [3.5, 5], base=[0, 0]),
)
