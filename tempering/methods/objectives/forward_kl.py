"""Forward KL: the student is to find likely whatever the teacher does, word by word; the usual knowledge distillation.

    loss_t = T^2 sum_v p_T(v | y_<t) [ log p_T(v | y_<t) - log q_T(v | y_<t) ],    p of the teacher, q of the student, logits divided by T

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531, section 2) with T = 1 as language models use it, per token as in Kim and
Rush 2016 (arXiv 1606.07947), without the constant of a cross-entropy. Where the student is too small it spreads over all that the teacher may say
("mean-seeking"); `reverse_kl` picks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._distil import Distil, kl

FAMILY = "distil"


@dataclass(frozen=True)
class ForwardKL(Distil):
    """KL of the student from the teacher, expected under the teacher."""

    def divergence(self, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
        return kl(teacher_TV, student_TV)


_LN2, _LN3, _LN9 = math.log(2), math.log(3), math.log(9)
# Teacher (1/2, 1/2) and student (1/4, 3/4); the other way round.
_KL = [0.5 * math.log(4 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]

CASES = (
    Case(
        "two tokens of unequal weight, one without, and a row where student and teacher are one",
        ForwardKL(),
        {
            "train": {
                "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]], [[0.0, _LN2]]],
                "teacher.logits": [[[0.5, 0.5], [0.0, _LN3], [0.0, 0.0]], [[1.0, 1.0 + _LN2]]],
            }
        },
        weights={"train": [[1.0, 2.0, 0.0], [1.0]]},
        loss=(_KL[0] + 2 * _KL[1]) / 4,
        gradient={"train/logits": [[[-0.25 / 4, 0.25 / 4], [2 * 0.25 / 4, -2 * 0.25 / 4], [0, 0]], [[0, 0]]]},
        # Of equals the first is the likeliest; the token without weight does not count.
        logs={"agreement": 1 / 3},
    ),
    Case(
        "twice as warm: a student of odds 1:9 looks like 1:3; by rows",
        ForwardKL(temperature=2.0, norm="segment_mean"),
        {
            "train": {
                "logits": [[[0.0, _LN9], [1.0, 1.0]], [[0.0, _LN9]]],
                "teacher.logits": [[[0.5, 0.5], [0.0, _LN9]], [[2.0, 2.0]]],
            }
        },
        weights={"train": [[1.0, 2.0], [0.5]]},
        loss=4 * ((_KL[0] + 2 * _KL[1]) / 3 + _KL[0]) / 2,
        # Hinton's T (q - p), by the divisors of rows and tokens.
        gradient={"train/logits": [[[-0.5 / 6, 0.5 / 6], [2 * 0.5 / 6, -2 * 0.5 / 6]], [[-0.5 / 2, 0.5 / 2]]]},
    ),
    Case(
        "of three words the likeliest are the same, the unlikeliest are not",
        ForwardKL(),
        {"train": {"logits": [[[0.0, _LN2, 2 * _LN2]], [[0.0, 0.0, 1.0]]], "teacher.logits": [[[_LN2, 0.0, 2 * _LN2]], [[0.0, 0.0, 1.0]]]}},
        loss=_LN2 / 7 / 2,
        logs={"agreement": 1.0},
    ),
)
