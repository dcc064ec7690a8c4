"""Symmetric cross-entropy: beside the usual one, the cross-entropy the other way round, whose pull is bounded where a target is wrong.

    loss_t = - alpha log p_t - beta * A * (1 - p_t)

Wang et al. 2019, arXiv 1908.06112, equations 4 to 7. The second term is - sum_v p(v) log q(v) of a one-hot target q, whose log 0 is taken as A, a
negative number. alpha = 0.1, beta = 1 for CIFAR-10 and A = -4 in the released code: recalled, not checked.
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
class SCE(NLL):
    """Cross-entropy plus reverse cross-entropy."""

    alpha: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the cross-entropy."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the reverse cross-entropy."""
    log_zero: Annotated[float, Field(lt=0)] = -4.0
    """A, what stands for log 0."""

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals[self.part]["logp"]
        return -self.alpha * logp_T + self.beta * self.log_zero * torch.expm1(logp_T)


CASES = (
    Case(
        "p = 1/2 and 1/8: the reverse term is 3 (1 - p) each",
        SCE(alpha=0.5, beta=0.25, log_zero=-3.0),
        {"train": {"logp": [[math.log(0.5), -5], [math.log(0.125)]]}},
        weights={"train": [[1, 0], [0.5]]},
        loss=(0.5 * math.log(2) + 0.25 * 3 * 0.5 + 0.5 * (0.5 * math.log(8) + 0.25 * 3 * 0.875)) / 1.5,
        gradient={"train/logp": [[-(0.5 + 0.75 * 0.5) / 1.5, 0], [-0.5 * (0.5 + 0.75 * 0.125) / 1.5]]},
    ),
)
