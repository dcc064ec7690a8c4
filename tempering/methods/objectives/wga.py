"""Weighted gradient ascent: a token is pushed down by how likely it still is, so that what is forgotten is left alone.

    loss_t = p(y_t | y_<t)^alpha * log p(y_t | y_<t),   the weight without gradient

Wang et al. 2025, arXiv 2502.19301 (the "G-effect" paper); alpha = 1 (OpenUnlearning calls it beta). alpha = 0 is gradient ascent. Its retain term
is the likelihood of the retain rows, weight 1. `satimp` has this weight and one more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._forgetting import Forgetting
from tempering.reduce import scored
from tempering.types import Context, Norm, Parts, Signals

FAMILY = "forget"
CONFUSED_WITH = {"gradient_ascent": "weighs all tokens alike and has no bound", "satimp": "weighs by saturation and importance"}
PAPER = {"optimizer.lr": "1e-5 for all weights of LLaMA-2 7B, 2e-5 of Phi-1.5, on TOFU in batches of 16 (as OpenUnlearning states it)"}


@dataclass(frozen=True)
class WGA(Forgetting):
    """Gradient ascent in which likely tokens weigh more."""

    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Exponent of the token's probability; 0 is gradient ascent."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    per = "token"

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals["forget"]["logp"]
        ctx.log(forget_nll=-scored(logp_T, parts["forget"]))
        return torch.exp(self.alpha * logp_T.detach()) * logp_T


_HALF, _QUARTER, _TENTH = math.log(0.5), math.log(0.25), math.log(0.1)

CASES = (
    Case(
        "a likely token counts more than an unlikely one, and the weight has no slope",
        WGA(alpha=2.0, retain_loss="none"),
        {"forget": {"logp": [[-9.0, _HALF, _QUARTER], [_TENTH]]}},
        weights={"forget": [[0.0, 1.0, 0.5], [2.0]]},
        loss=(0.25 * _HALF + 0.5 * 0.0625 * _QUARTER + 2 * 0.01 * _TENTH) / 3.5,
        gradient={"forget/logp": [[0.0, 0.25 / 3.5, 0.03125 / 3.5], [0.02 / 3.5]]},
        logs={"forget_nll": -(_HALF + _QUARTER + _TENTH) / 3},
    ),
    Case(
        "the paper's exponent, other rows kept likely",
        WGA(weight=0.5, retain_weight=2.0),
        {"forget": {"logp": [[_HALF], [_TENTH, _QUARTER]]}, "retain": {"logp": [[-1.0, -3.0], [-2.0]]}},
        loss=0.5 * (0.5 * _HALF + 0.1 * _TENTH + 0.25 * _QUARTER) / 3 + 4,
    ),
)
