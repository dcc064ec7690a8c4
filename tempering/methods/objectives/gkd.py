"""GKD: distillation on what the student itself writes, by a Jensen-Shannon divergence that is turned from forward to reverse KL.

    m = beta p + (1 - beta) q,    loss_t = T^2 ( beta KL(p || m) + (1 - beta) KL(q || m) ),    p of the teacher, q of the student

Agarwal et al. 2024, arXiv 2306.13649 (ICLR 2024, "On-Policy Distillation of Language Models", equation 1 and algorithm 1). `on_policy` is the paper's
lambda: the chance that a step's answers are samples of the student instead of the data's; no gradient flows through sampling. beta = 0.5 and lambda =
0.5 as TRL's trainer has them (the paper tries beta 0.1, 0.5 and 0.9, and finds lambda = 1 best). Divided by beta the loss goes to the forward KL as
beta goes to 0, and divided by 1 - beta to the reverse one as it goes to 1; at 0 and 1 themselves, where it would be 0, it is these, as in TRL.
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
RECIPE = {"on_policy": 0.5}


@dataclass(frozen=True)
class GKD(Distil):
    """Generalised Jensen-Shannon divergence of teacher and student."""

    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The teacher's share of the mixture: near 0 it acts like forward KL, near 1 like reverse KL."""

    def divergence(self, teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
        if self.beta == 0:
            return kl(teacher_TV, student_TV)
        if self.beta == 1:
            return kl(student_TV, teacher_TV)
        mixture_TV = torch.logaddexp(teacher_TV + math.log(self.beta), student_TV + math.log(1 - self.beta))
        return self.beta * kl(teacher_TV, mixture_TV) + (1 - self.beta) * kl(student_TV, mixture_TV)


_LN3, _LN9 = math.log(3), math.log(9)


def _kl(p: float, q: float) -> float:
    """KL of two coins."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def _jsd(beta: float, p: float, q: float) -> float:
    m = beta * p + (1 - beta) * q
    return beta * _kl(p, m) + (1 - beta) * _kl(q, m)


# The student says (1/4, 3/4), (1/2, 1/2), and as the teacher does; a token without weight.
_GIVEN = {
    "logits": [[[0.0, _LN3], [1.0, 1.0], [5.0, -5.0]], [[0.0, _LN9]]],
    "teacher.logits": [[[0.5, 0.5], [0.0, _LN9], [0.0, 0.0]], [[1.0, 1.0 + _LN9]]],
}
_WEIGHTS = [[1.0, 2.0, 0.0], [0.5]]
# d JSD / dz_0 = (1 - beta) q_0 q_1 (log odds of q - log odds of m), here of the first two tokens with beta = 0.1.
_ODDS = [math.log(0.275 / 0.725), math.log(0.46 / 0.54)]
_SLOPE = [0.9 * 0.25 * 0.75 * (-_LN3 - _ODDS[0]), 0.9 * 0.25 * (0 - _ODDS[1])]

CASES = (
    Case(
        "a mixture that is mostly the student's",
        GKD(beta=0.1),
        {"train": _GIVEN},
        weights={"train": _WEIGHTS},
        loss=(_jsd(0.1, 0.5, 0.25) + 2 * _jsd(0.1, 0.1, 0.5)) / 3.5,
        gradient={
            "train/logits": [[[_SLOPE[0] / 3.5, -_SLOPE[0] / 3.5], [2 * _SLOPE[1] / 3.5, -2 * _SLOPE[1] / 3.5], [0, 0]], [[0, 0]]],
        },
    ),
    Case("forward KL", GKD(beta=0.0), {"train": _GIVEN}, weights={"train": _WEIGHTS}, loss=(_kl(0.5, 0.25) + 2 * _kl(0.1, 0.5)) / 3.5),
    Case("reverse KL", GKD(beta=1.0), {"train": _GIVEN}, weights={"train": _WEIGHTS}, loss=(_kl(0.25, 0.5) + 2 * _kl(0.5, 0.1)) / 3.5),
    Case(
        "twice as warm",
        GKD(beta=0.75, temperature=2.0),
        {"train": _GIVEN},
        weights={"train": [[1.0, 0.0, 0.0], [1.0]]},
        loss=4 * _jsd(0.75, 0.5, 1 / (1 + math.sqrt(3))) / 2,
    ),
)
