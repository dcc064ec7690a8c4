"""Task arithmetic: the changes that trainings made to one base, weighted and added up.

    W = base + lambda * sum_i w_i (W_i - base)

Ilharco et al. 2022, arXiv 2212.04089, section 2: a sum of task vectors adds tasks, a negative weight takes one away. The same as mergekit's
`task_arithmetic`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempering.cases import MergeCase
from tempering.methods.merges._vectors import TaskVectors


@dataclass(frozen=True)
class TaskArithmetic(TaskVectors):
    """Changes as they are."""


CASES = (
    MergeCase("two changes, one of half weight", TaskArithmetic(weight=(1, 0.5)), [[2, 0, 5], [1, 4, -1]], [2, 2, 3.5], base=[1, 0, 2]),
    MergeCase("half of the sum is put on the base", TaskArithmetic(lambda_=0.5), [[2, 0], [1, 4]], [1.5, 2], base=[1, 0]),
    MergeCase("divided by the weights", TaskArithmetic(weight=(3, 1), normalize=True), [[2, 0], [5, 4]], [2.75, 1], base=[1, 0]),
    MergeCase("weights that cancel are not divided by", TaskArithmetic(weight=(1, -1), normalize=True), [[2, 0], [5, 4]], [-2, -4], base=[1, 0]),
)
