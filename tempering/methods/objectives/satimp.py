"""SatImp: gradient ascent whose tokens weigh by saturation (how likely they still are) and by importance (how little the model was sure of them).

    loss_t = p^beta1 * (1 - p)^beta2 * log p(y_t | y_<t),   p = p(y_t | y_<t), the weights without gradient

Yang et al. 2025, arXiv 2505.11953; beta1 = 5, beta2 = 1, and a retain term of a tenth of the forget term's weight, as the authors state for
OpenUnlearning (whose configuration file has the two weights the other way round: `--method.weight 0.1 --method.retain-weight 1`). beta2 = 0 is `wga`,
both 0 gradient ascent.
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
CONFUSED_WITH = {"wga": "weighs the ascent by the token's probability alone", "gradient_ascent": "weighs all tokens alike and has no bound"}
PAPER = {"optimizer.lr": "1e-5 for all weights of LLaMA-2 7B, 2e-5 of Phi-1.5, on TOFU in batches of 16 (as OpenUnlearning states it)"}


@dataclass(frozen=True)
class SatImp(Forgetting):
    """Gradient ascent in which tokens that are neither forgotten nor certain weigh most."""

    beta1: Annotated[float, Field(ge=0)] = 5.0
    """Exponent of the token's probability (saturation)."""
    beta2: Annotated[float, Field(ge=0)] = 1.0
    """Exponent of what is left to certainty (importance)."""
    norm: Norm = "tokens"
    """What the forget term is divided by."""
    retain_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the retain term."""
    per = "token"

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        logp_T = signals["forget"]["logp"]
        ctx.log(forget_nll=-scored(logp_T, parts["forget"]))
        # By rounding a log-prob may be a little above 0.
        sure_T = torch.exp(self.beta1 * logp_T.detach())
        unsure_T = (-torch.expm1(logp_T.detach())).clamp(min=0) ** self.beta2
        return sure_T * unsure_T * logp_T


_HALF, _QUARTER, _TENTH = math.log(0.5), math.log(0.25), math.log(0.1)

CASES = (
    Case(
        "both weights, without slope; a token that rounding makes more than certain",
        SatImp(beta1=2.0, beta2=1.5, retain_loss="none"),
        {"forget": {"logp": [[-9.0, _HALF, _QUARTER], [_TENTH, 1e-8]]}},
        weights={"forget": [[0.0, 1.0, 0.5], [2.0, 1.0]]},
        loss=(0.5**3.5 * _HALF + 0.5 * 0.25**2 * 0.75**1.5 * _QUARTER + 2 * 0.1**2 * 0.9**1.5 * _TENTH) / 4.5,
        gradient={"forget/logp": [[0.0, 0.5**3.5 / 4.5, 0.5 * 0.25**2 * 0.75**1.5 / 4.5], [2 * 0.1**2 * 0.9**1.5 / 4.5, 0.0]]},
        logs={"forget_nll": -(_HALF + _QUARTER + _TENTH + 1e-8) / 4},
    ),
    Case(
        "the paper's exponents, a certain token left alone, other rows kept likely",
        SatImp(),
        {"forget": {"logp": [[_HALF], [0.0, _QUARTER]]}, "retain": {"logp": [[-1.0, -3.0], [-2.0]]}},
        loss=(0.5**6 * _HALF + 0.25**5 * 0.75 * _QUARTER) / 3 + 0.1 * 2,
    ),
)
