"""Retaining while acquiring: a student that is distilled without data keeps what it had of earlier pseudo-inputs while it learns the newest.

    theta' = theta - rate grad L_acq(theta),   minimise L_acq(theta) + L_ret(theta'),   both KL(teacher || student) per token

Patel et al. 2023, arXiv 2302.14290 (S068, "Learning to Retain while Acquiring"). L_acq is on the newest pseudo-inputs, on which student and teacher
differ most, L_ret on a memory of earlier ones. To first order in the rate this is the plain sum and -rate grad L_acq . grad L_ret: the two gradients
are made to point one way. This objective is L_ret, on the part "memory"; L_acq is `forward_kl`, and `fit` takes the step between them (ahead.py). The
paper distils classifiers of images, whose generator is a network, with L1 distances of logits; pseudo-inputs here are text (recipe `dfkd`) and the
distance is the divergence that language models are distilled by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._distil import Distil, kl

FAMILY = "data_free"
CATALOGUE = ("S068",)
CONFUSED_WITH = {"forward_kl": "the same divergence on one part, without a step between"}


@dataclass(frozen=True)
class DFKD(Distil):
    """KL of the student from the teacher on remembered pseudo-inputs."""

    rate: Annotated[float, Field(ge=0)] = 0.1
    """Size of the step after which the memory is looked at; 0 is the plain sum of both losses. The paper's is not known here."""
    order: Literal["none", "first", "second"] = "first"
    """none: only the newest pseudo-inputs are learned, naive adversarial distillation; second: with the Hessian of L_acq, at twice the time."""
    part = "memory"

    def divergence(self, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
        return kl(teacher_TV, student_TV)


_LN3 = math.log(3)

CASES = (
    Case(
        "two remembered tokens of unequal weight, of which the likeliest differ, and one without",
        DFKD(),
        {
            "memory": {
                "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]]],
                "teacher.logits": [[[0.5, 0.5], [0.0, _LN3], [0.0, 0.0]]],
            }
        },
        weights={"memory": [[1.0, 2.0, 0.0]]},
        loss=(0.5 * math.log(4 / 3) + 2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))) / 3,
        gradient={"memory/logits": [[[-0.25 / 3, 0.25 / 3], [2 * 0.25 / 3, -2 * 0.25 / 3], [0, 0]]]},
        logs={"agreement": 0.0},
    ),
    Case(
        "twice as warm: odds of 1:9 look like 1:3",
        DFKD(temperature=2.0),
        {"memory": {"logits": [[[0.0, 2 * _LN3]]], "teacher.logits": [[[0.5, 0.5]]]}},
        loss=4 * 0.5 * math.log(4 / 3),
    ),
)
