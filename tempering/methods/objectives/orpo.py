"""Odds ratio preference optimisation: fine-tuning with a small pull on the odds of chosen over rejected, in one stage and without a reference.

    loss = NLL(y_w) - lambda * log sigmoid( log odds(y_w) - log odds(y_l) ),   odds = p / (1 - p),   log p = mean_t log pi(y_t)

Hong et al. 2024, arXiv 2403.07691, equations 3 to 7; `beta` is the paper's lambda, 0.1. The first term is a mean over the step's chosen tokens; TRL
counts the prompt's tokens in it too, which `ORPO(sft=0) + NLL(part)` gives, with a part whose prompts have weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs
from tempering.reduce import segment_mean
from tempering.types import Batch, Context

FAMILY = "pairs"
RECIPE = {"optimizer.lr": 8e-6}  # appendix: 8e-6 for 7B models


@dataclass(frozen=True)
class ORPO(Paired):
    """Likelihood of the chosen answers plus the log odds ratio."""

    reference_free: bool = True
    sft: float = 1.0

    def total(self, x_T: Tensor, batch: Batch) -> Tensor:
        """Probabilities are geometric means by token."""
        return segment_mean(x_T, batch)

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        odds_S = _log_odds(pair.chosen) - _log_odds(pair.rejected)
        ctx.log(log_odds=odds_S)
        return -self.beta * F.logsigmoid(odds_S)


def _log_odds(logp_S: Tensor) -> Tensor:
    # log(1 - p) by whichever of its two forms is exact; where() must not see the other's infinite gradient.
    near_S = logp_S > -math.log(2)
    small_S, large_S = torch.where(near_S, logp_S, -1.0), torch.where(near_S, -1.0, logp_S)
    return logp_S - torch.where(near_S, torch.log(-torch.expm1(small_S)), torch.log1p(-torch.exp(large_S)))


def _odds(mean: float) -> float:
    return math.exp(mean) / (1 - math.exp(mean))


CASES = (
    Case(
        "means -4/3, -1.5 against -2, -0.65; 3.5 nats over 2.5 chosen tokens",
        ORPO(beta=0.5, sft=2.0),
        EXAMPLE,
        weights=WEIGHTS,
        loss=0.5 * (math.log1p(_odds(-2.0) / _odds(-4 / 3)) + math.log1p(_odds(-0.65) / _odds(-1.5))) / 2 + 2.0 * 3.5 / 2.5,
        logs={
            "log_odds": math.log(_odds(-4 / 3) / _odds(-2.0) * _odds(-1.5) / _odds(-0.65)) / 2,
            "chosen_reward": 0.5 * (-4 / 3 - 1.5) / 2,
            "chosen_logp": (-4 / 3 - 1.5) / 2,
        },
    ),
)
