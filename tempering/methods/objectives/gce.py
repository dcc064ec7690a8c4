"""Generalised cross-entropy: between cross-entropy and mean absolute error, so that tokens with an unlikely, perhaps wrong, target pull less.

    loss_t = (1 - p_t^q) / q

Zhang and Sabuncu 2018, arXiv 1805.07836, equation 6; q = 0.7 there. q -> 0 is cross-entropy; q = 1 is 1 - p, half the absolute error. The gradient is
p^q times that of cross-entropy (equation 7). Their truncated form, which drops samples below a confidence, is not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives.nll import NLL
from tempering.types import Context, Parts, Signals

FAMILY = "tokens"


@dataclass(frozen=True)
class GCE(NLL):
    """A Box-Cox transform of the target's probability."""

    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """How little unlikely targets pull: near 0 as cross-entropy, 1 in proportion to p."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return -torch.expm1(self.q * signals[self.part]["logp"]) / self.q


CASES = (
    Case(
        "square roots: p = 1/4 loses 1, p = 1/16 loses 3/2",
        GCE(q=0.5),
        {"train": {"logp": [[-3, math.log(1 / 4)], [math.log(1 / 16), math.log(1 / 4)]]}},
        weights={"train": [[0, 1], [0.5, 2]]},
        loss=(1 + 0.5 * 1.5 + 2) / 3.5,
        gradient={"train/logp": [[0, -0.5 / 3.5], [-0.125 / 3.5, -1 / 3.5]]},
    ),
)
