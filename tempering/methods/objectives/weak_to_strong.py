"""Weak to strong: a strong model learns from a weaker teacher, and is told to trust its own opinion where it has one.

    loss_t = (1 - alpha) * -sum_v p(v) log q(v)  +  alpha * -log max_v q(v),    p of the weak teacher, q of the student

Burns et al. 2023, arXiv 2312.09390 (section 4.3.2, "auxiliary confidence loss"; appendix A.4): the second term is the cross-entropy to what the
student itself would say, hardened, without gradient through the choice. alpha grows linearly from 0 over the first steps, to 0.75 in the paper for
large strong models and 0.5 for small ones. The paper trains classifiers, and hardens by a threshold that keeps the classes of a batch balanced; for
next tokens it is the likeliest one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._distil import Distil, scored
from tempering.types import Context, Parts, Signals

FAMILY = "distil"


@dataclass(frozen=True)
class WeakToStrong(Distil):
    """Cross-entropy to a weak teacher, and to the student's own likeliest token."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """What the student's own opinion counts in the end."""
    warmup: Annotated[int, Field(ge=0)] = 20
    """Steps in which it comes to count that much."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        student_TV = signals["train"]["logits"].log_softmax(-1)
        weak_TV = (signals["train"]["teacher.logits"] / self.temperature).softmax(-1)
        own_T = student_TV.amax(-1)
        alpha = self.alpha * min(1.0, (ctx.step + 1) / (self.warmup + 1))
        ctx.log(own=own_T[scored(parts["train"])])
        return -(1 - alpha) * (weak_TV * student_TV).sum(-1) - alpha * own_T


_LN3 = math.log(3)
_GIVEN = {
    "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]], [[_LN3, 0.0]]],
    "teacher.logits": [[[math.log(4), 0.0], [0.0, math.log(9)], [0.0, 0.0]], [[math.log(9), 0.0]]],
}
_WEIGHTS = [[1.0, 2.0, 0.0], [0.5]]


def _ce(p: float, q: float) -> float:
    return -p * math.log(q) - (1 - p) * math.log(1 - q)


CASES = (
    Case(
        "after the warm-up; the student is sure of what the teacher doubts",
        WeakToStrong(alpha=0.4, warmup=3),
        {"train": _GIVEN},
        weights={"train": _WEIGHTS},
        step=9,
        loss=(0.6 * (_ce(0.8, 0.25) + 2 * _ce(0.1, 0.5) + 0.5 * _ce(0.9, 0.75)) + 0.4 * (-math.log(0.75) - 2 * math.log(0.5) - 0.5 * math.log(0.75)))
        / 3.5,
        logs={"own": (2 * math.log(0.75) + math.log(0.5)) / 3},
    ),
    Case(
        "the second of four steps: half of it",
        WeakToStrong(alpha=0.4, warmup=3, temperature=2.0),
        {"train": _GIVEN},
        weights={"train": [[1.0, 0.0, 0.0], [1.0]]},
        step=1,
        loss=(0.8 * (_ce(2 / 3, 0.25) + _ce(0.75, 0.75)) + 0.2 * -2 * math.log(0.75)) / 2,
        gradient={
            "train/logits": [
                [[(0.8 * (0.25 - 2 / 3) + 0.2 * 0.25) / 2, (0.8 * (0.75 - 1 / 3) + 0.2 * -0.25) / 2], [0, 0], [0, 0]],
                [[0.2 * -0.25 / 2, 0.2 * 0.25 / 2]],
            ]
        },
    ),
)
