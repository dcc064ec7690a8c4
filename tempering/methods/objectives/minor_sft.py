"""MinorSFT: an answer counts less the further the policy has already moved towards it, as the losers of DPO do.

    loss = - (2 / (beta m)) log sigmoid( beta * log pi(y|x) / pi_ref(y|x) ),   m = |y|

Xie et al. 2024, arXiv 2408.10642 (S104): its gradient is (2/m) sigmoid(-beta log pi/pi_ref) times that of -log pi(y|x). At the reference, and
everywhere as beta -> 0, that is the mean cross-entropy of each answer. The weight lies in (0, 2). Logged as `deviation` is the paper's metric, the
mean over answers of (1/m) log pi/pi_ref. beta = 0.04 is recalled, not checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.methods.objectives._paired import length, softplus
from tempering.reduce import segment_sum
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "tokens"
CATALOGUE = ("S104",)


@dataclass(frozen=True)
class MinorSFT(Objective):
    """Log-sigmoid of an answer's log-ratio to the reference, by its length."""

    beta: Annotated[float, Field(gt=0)] = 0.04
    """How fast an answer that was learned loses weight."""
    norm = "segments"
    part = "train"
    per = "segment"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {"train": frozenset({"logp", "reference.logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        batch, s = parts["train"], signals["train"]
        ratio_S = segment_sum(s["logp"] - s["reference.logp"], batch)
        ctx.log(deviation=ratio_S / length(batch))
        return -2 / (self.beta * length(batch)) * F.logsigmoid(self.beta * ratio_S)


CASES = (
    Case(
        "log-ratios 0.8 and -2 of lengths 1.5 and 2; an answer that is not scored counts for nothing",
        MinorSFT(beta=0.5),
        {"train": {"logp": [[-1, -2, -4], [-3, -2], [-9]], "reference.logp": [[-1.5, -2.6, -9], [-2, -1], [-1]]}},
        weights={"train": [[1, 0.5, 0], [1, 1], [0]]},
        loss=(2 / (0.5 * 1.5) * softplus(-0.4) + 2 / (0.5 * 2) * softplus(1.0)) / 2,
        gradient={
            "train/logp": [
                [-1 / 1.5 / (1 + math.exp(0.4)), -0.5 / 1.5 / (1 + math.exp(0.4)), 0],
                [-0.5 / (1 + math.exp(-1.0))] * 2,
                [0],
            ]
        },
        logs={"deviation": (0.8 / 1.5 - 1) / 3},
    ),
    Case(
        "two answers to one prompt are two; at the reference the weight is 1 and the loss a constant",
        MinorSFT(beta=2.0),
        {"train": {"logp": [[-1, -2], [-3]], "reference.logp": [[-1, -2], [-3]]}},
        groups={"train": [0, 0]},
        loss=(0.5 + 1) * math.log(2) / 2,
        gradient={"train/logp": [[-0.25, -0.25], [-0.5]]},
    ),
)
