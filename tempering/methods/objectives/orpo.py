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
PAPER = {"optimizer.lr": "8e-6 (appendix, for 7B models; recalled, not checked)"}


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
    # p = 1 would have infinite odds.
    logp_S = logp_S.clamp(max=-1e-6)
    return logp_S - torch.log(-torch.expm1(logp_S))


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
    Case(
        "a rejected answer of probability 1 has the odds of one a millionth below it",
        ORPO(beta=0.5, sft=0.0),
        {"chosen": {"logp": [[-2.0, -1.0]]}, "rejected": {"logp": [[0.0]]}},
        loss=0.5 * math.log1p(math.exp(-1e-6) / -math.expm1(-1e-6) / _odds(-1.5)),
    ),
)
