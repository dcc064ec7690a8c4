"""Model breadcrumbs with elected signs: of each change the entries of middling size, of which those of the sign that weighs more are added up.

Davari and Belilovsky 2023, arXiv 2312.06795 (see `breadcrumbs`), before the election of Yadav et al. 2023, arXiv 2306.01708. The same as mergekit's
`breadcrumbs_ties`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tempering.cases import MergeCase
from tempering.methods.merges.breadcrumbs import Breadcrumbs


@dataclass(frozen=True)
class BreadcrumbsTies(Breadcrumbs):
    """Entries of middling size of the elected sign."""

    elect: ClassVar[bool] = True


CASES = (
    MergeCase(
        "the 8 and the 1 are left out; 2 and 3 agree, -4 beats 3",
        BreadcrumbsTies(density=0.5, gamma=0.25),
        [[2, 3, 8, 1], [3, -4, 8, 1]],
        [5, -4, 0, 0],
        base=[0, 0, 0, 0],
    ),
)
