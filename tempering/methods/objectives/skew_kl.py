"""Skew KL (DistiLLM): a KL divergence from a mixture that holds some of its own first argument, so that it is bounded and its gradient calm.

    forward:  loss_t = KL(p || alpha p + (1 - alpha) q)
    reverse:  loss_t = KL(q || alpha q + (1 - alpha) p),    p of the teacher, q of the student, times T^2

Ko et al. 2024, arXiv 2402.03898 (ICML 2024), alpha = 0.1. Neither can exceed -log(alpha), whatever a model holds impossible. alpha
= 0 is the plain KL. The paper's other half, a buffer of the student's answers that is renewed where its validation loss rises, is not here;
`--on-policy` samples anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._distil import Distil, kl

FAMILY = "distil"


@dataclass(frozen=True)
class SkewKL(Distil):
    """KL of teacher or student from a mixture of both."""

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of the first argument in the mixture."""
    reverse: bool = False
    """Expected under the student instead of the teacher."""

    def divergence(self, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
        p_TV, q_TV = (student_TV, teacher_TV) if self.reverse else (teacher_TV, student_TV)
        if self.alpha == 0:
            return kl(p_TV, q_TV)
        return kl(p_TV, torch.logaddexp(p_TV + math.log(self.alpha), q_TV + math.log(1 - self.alpha)))


_LN3, _LN9 = math.log(3), math.log(9)


def _kl(p: float, q: float) -> float:
    """KL of two coins."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def _skew(alpha: float, p: float, q: float) -> float:
    return _kl(p, alpha * p + (1 - alpha) * q)


_GIVEN = {
    "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]], [[0.0, _LN9]]],
    "teacher.logits": [[[0.5, 0.5], [0.0, _LN9], [0.0, 0.0]], [[1.0, 1.0 + _LN9]]],
}
_WEIGHTS = [[1.0, 2.0, 0.0], [0.5]]
# d/dz_0 of -p_0 log m_0 - p_1 log m_1 with m = 0.2 p + 0.8 q: 0.8 q_0 q_1 (p_1 / m_1 - p_0 / m_0); the first two tokens.
_SLOPE = [0.8 * 0.25 * 0.75 * (0.5 / 0.7 - 0.5 / 0.3), 0.8 * 0.25 * (0.9 / 0.58 - 0.1 / 0.42)]

CASES = (
    Case(
        "forward, with a teacher's fifth in the mixture",
        SkewKL(alpha=0.2),
        {"train": _GIVEN},
        weights={"train": _WEIGHTS},
        loss=(_skew(0.2, 0.5, 0.25) + 2 * _skew(0.2, 0.1, 0.5)) / 3.5,
        gradient={
            "train/logits": [[[_SLOPE[0] / 3.5, -_SLOPE[0] / 3.5], [2 * _SLOPE[1] / 3.5, -2 * _SLOPE[1] / 3.5], [0, 0]], [[0, 0]]],
        },
    ),
    Case(
        "reverse",
        SkewKL(alpha=0.2, reverse=True),
        {"train": _GIVEN},
        weights={"train": _WEIGHTS},
        loss=(_skew(0.2, 0.25, 0.5) + 2 * _skew(0.2, 0.5, 0.1)) / 3.5,
    ),
    Case("plain KL", SkewKL(alpha=0.0), {"train": _GIVEN}, weights={"train": _WEIGHTS}, loss=(_kl(0.5, 0.25) + 2 * _kl(0.1, 0.5)) / 3.5),
    Case(
        "a teacher that is certain and a student that holds it impossible: the loss stays below -log(alpha)",
        SkewKL(),
        {"train": {"logits": [[[-200.0, 0.0]], [[0.0, 0.0]]], "teacher.logits": [[[200.0, 0.0]], [[3.0, 3.0]]]}},
        loss=-math.log(0.1) / 2,
    ),
)
