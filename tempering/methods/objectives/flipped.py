"""Flipped learning: the instruction is learned given input and label, and unlearned given the input and a wrong label.

    loss = - log p(I | x, l) - lambda * sum_t log(1 - p(I_t | x, l_wrong, I_<t))

Ye et al. 2022, arXiv 2210.02969 (S166); lambda = 3 is recalled, not checked. A row's prompt is input and label, its answer the instruction; rows
with the right label are desirable, those with a wrong one undesirable. To choose among labels, score the same instruction after each of them: the
length of a label then adds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tempering.cases import Case
from tempering.methods.objectives.sequence_unlikelihood import SequenceUnlikelihood

FAMILY = "unpaired"
CATALOGUE = ("S166",)


@dataclass(frozen=True)
class Flipped(SequenceUnlikelihood):
    """Likelihood of the instruction after the right label, unlikelihood after a wrong one."""

    weight: Annotated[float, Field(ge=0)] = 3.0


CASES = (
    Case(
        "an instruction of two tokens after the right label, and after a wrong one",
        Flipped(),
        {"train": {"logp": [[-1.0, -2.0], [math.log(0.25), math.log(0.5)]], "label": [1, 0]}},
        loss=1.5 - 3 * (math.log(0.75) + math.log(0.5)) / 2,
    ),
    Case(
        "two wrong labels",
        Flipped(weight=0.5),
        {"train": {"logp": [[-1.0], [math.log(0.25)], [math.log(0.5), -7]], "label": [1, 0, 0]}},
        weights={"train": [[1], [1], [1, 0]]},
        loss=1 - 0.5 * (math.log(0.75) + math.log(0.5)) / 2,
    ),
)
