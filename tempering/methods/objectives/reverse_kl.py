"""Reverse KL: the student is to say nothing that the teacher finds unlikely; what the teacher also might say it may leave out.

    loss_t = T^2 sum_v q_T(v | y_<t) [ log q_T(v | y_<t) - log p_T(v | y_<t) ],    p of the teacher, q of the student, logits divided by T

The divergence of MiniLLM (Gu et al. 2024, arXiv 2306.08543), which takes it over whole answers and by policy gradient; this is its value
at each token, as in Agarwal et al. 2024 (GKD, arXiv 2306.13649, section 2): over the data's answers, or the student's own (`--on-policy`). It seeks a
mode: a student that is too small picks some of the teacher's answers instead of blurring them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._distil import Distil, kl

FAMILY = "distil"


@dataclass(frozen=True)
class ReverseKL(Distil):
    """KL of the teacher from the student, expected under the student."""

    def divergence(self, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
        return kl(student_TV, teacher_TV)


_LN2, _LN3, _LN9 = math.log(2), math.log(3), math.log(9)
# Student (1/4, 3/4) and teacher (1/2, 1/2); the other way round.
_KL = [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.5 * math.log(4 / 3)]
# d KL / dz of two tokens with q = softmax(z): q_0 q_1 (log odds of q - log odds of p), and its opposite.
_SLOPE = [0.25 * 0.75 * -_LN3, 0.25 * _LN3]

CASES = (
    Case(
        "two tokens of unequal weight, one without, and a row where student and teacher are one",
        ReverseKL(),
        {
            "train": {
                "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]], [[0.0, _LN2]]],
                "teacher.logits": [[[0.5, 0.5], [0.0, _LN3], [0.0, 0.0]], [[1.0, 1.0 + _LN2]]],
            }
        },
        weights={"train": [[1.0, 2.0, 0.0], [1.0]]},
        loss=(_KL[0] + 2 * _KL[1]) / 4,
        gradient={"train/logits": [[[_SLOPE[0] / 4, -_SLOPE[0] / 4], [2 * _SLOPE[1] / 4, -2 * _SLOPE[1] / 4], [0, 0]], [[0, 0]]]},
    ),
    Case(
        "twice as warm: a student of odds 1:9 looks like 1:3; by rows",
        ReverseKL(temperature=2.0, norm="segment_mean"),
        {
            "train": {
                "logits": [[[0.0, _LN9], [1.0, 1.0]], [[0.0, _LN9]]],
                "teacher.logits": [[[0.5, 0.5], [0.0, _LN9]], [[2.0, 2.0]]],
            }
        },
        weights={"train": [[1.0, 2.0], [0.5]]},
        loss=4 * ((_KL[0] + 2 * _KL[1]) / 3 + _KL[0]) / 2,
    ),
)
