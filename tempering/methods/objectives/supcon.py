"""Supervised contrastive loss: an answer's embedding is drawn to those of its class and away from all others of the step.

    loss_i = - (1/|P(i)|) sum_{p in P(i)} log [ exp(z_i z_p / tau) / sum_{a != i} exp(z_i z_a / tau) ],   P(i): the others of i's class

Khosla et al. 2020, arXiv 2004.11362, equation 2; tau = 0.1 there. Gunel et al. 2021, arXiv 2011.01403, add it to cross-entropy when fine-tuning
language models. With classes of two it is NT-Xent, InfoNCE with the step as negatives (Chen et al. 2020, arXiv 2002.05709, equation 1). z are unit
vectors of whole answers. An answer alone in its class has loss 0 and counts in the divisor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._embedded import Embedded

FAMILY = "unpaired"


@dataclass(frozen=True)
class SupCon(Embedded):
    """Softmax over the step's other answers, with those of the same class as targets."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau: lower looks at the nearest alone."""

    def losses(self, near_SS: Tensor, same_SS: Tensor, other_SS: Tensor) -> Tensor:
        score_SS = near_SS / self.temperature
        among_SS = torch.where(same_SS | other_SS, score_SS, torch.finfo(score_SS.dtype).min)
        logp_SS = score_SS - among_SS.logsumexp(1, keepdim=True)
        return -torch.where(same_SS, logp_SS, 0.0).sum(1) / same_SS.sum(1).clamp(min=1)


# Unit vectors (1, 0), (0.6, 0.8), (0, 1): cosines 0.6, 0 and 0.8. The first two are of one class.
_THREE = {"hidden": [[[2, 0], [9, 9]], [[0, 2], [1.2, 0.6]], [[0, 3]]], "label": [1, 1, 0]}
_WEIGHTS = {"train": [[1, 0], [1, 2], [0.5]]}


def _log(*x: float) -> float:
    return math.log(sum(math.exp(v) for v in x))


def _pull(target: float, other: float) -> float:
    """Chance of the other one."""
    return 1 / (1 + math.exp(target - other))


# Means: (2, 0), (0.8, 16/15) = 4/3 (0.6, 0.8), (0, 3). Losses: log-sum-exps less the scores, at tau = 1/2.
# d loss / d cosine of pairs 01, 02, 12, at the first anchor: -2 q, 2 q, 0 with q its other one's chance.
_Q0, _Q1 = _pull(1.2, 0.0), _pull(1.2, 1.6)
_D01, _D02, _D12 = (-2 * _Q0 - 2 * _Q1) / 3, 2 * _Q0 / 3, 2 * _Q1 / 3

CASES = (
    Case(
        "two of a class and one alone; the mean by weight, and its direction only",
        SupCon(temperature=0.5),
        {"train": _THREE},
        weights=_WEIGHTS,
        loss=(_log(1.2, 0.0) - 1.2 + _log(1.2, 1.6) - 1.2) / 3,
        gradient={
            # By the cosine rule: d cos(x, y) / dx = (y - cos x) / |x|, at (1, 0) only its second coordinate.
            "train/hidden": [
                [[0, (_D01 * 0.8 + _D02 * 1) / 2], [0, 0]],
                [[share * 0.75 * (_D01 * 0.64 - _D12 * 0.48), share * 0.75 * (-_D01 * 0.48 + _D12 * 0.36)] for share in (1 / 3, 2 / 3)],
                [[_D12 * 0.6 / 3 + _D02 / 3, 0]],
            ]
        },
    ),
    Case(
        "two others of the class: the mean of both; the last state instead of the mean; an answer that is not scored is nobody's other",
        SupCon(temperature=1.0, pool="last"),
        {"train": {"hidden": [[[7, 7], [1, 0]], [[0, 5]], [[0.6, 0.8], [3, 1]], [[1, 1]]], "label": [4, 4, 4, 2]}},
        weights={"train": [[1, 1], [2], [1, 0], [0]]},
        groups={"train": [0, 0, 1, 2]},
        loss=(_log(0, 0.6) - 0.3 + _log(0, 0.8) - 0.4 + _log(0.6, 0.8) - 0.7) / 3,
    ),
    Case("nothing is scored", SupCon(), {"train": {"hidden": [[[1, 2]], [[3, 4]]], "label": [1, 1]}}, weights={"train": [[0], [0]]}, loss=0),
)
