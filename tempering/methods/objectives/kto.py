"""Kahneman-Tversky optimisation: answers marked desirable or not, each valued by its log-ratio against the reference point z0.

    v = lambda_D sigmoid(beta (r - z0)) if desirable, lambda_U sigmoid(beta (z0 - r)) if not;   loss = lambda - v,   r = log pi / pi_ref (y | x)

Ethayarajh et al. 2024, arXiv 2402.01306, equation 8. z0 is max(0, mean of r over mismatched prompts and answers), part "kl", over the whole step and
without gradient (section 4.1). beta = 0.1 and weights of 1 are the paper's defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.cases import Case
from tempering.reduce import segment_sum, segment_weight
from tempering.types import Context, Objective, Parts, Signals

FAMILY = "unpaired"


@dataclass(frozen=True)
class KTO(Objective):
    """Value of desirable and undesirable answers around an estimate of the KL divergence."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Risk aversion: how fast the value saturates."""
    desirable: Annotated[float, Field(ge=0)] = 1.0
    """Weight of desirable answers (lambda_D)."""
    undesirable: Annotated[float, Field(ge=0)] = 1.0
    """Weight of undesirable answers (lambda_U)."""
    norm = "segments"
    per = "segment"
    couples = "sums"

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        ratio = frozenset({"logp", "reference.logp"})
        return {"train": ratio | {"label"}, "kl": ratio}

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        ratio_S = segment_sum(signals["kl"]["logp"] - signals["kl"]["reference.logp"], parts["kl"])
        return {"ratio": ratio_S.sum(), "segments": (segment_weight(parts["kl"]) != 0).sum().to(ratio_S.dtype)}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s = signals["train"]
        kl = (ctx.stats["ratio"] / ctx.stats["segments"].clamp(min=1)).clamp(min=0)
        ratio_S = segment_sum(s["logp"] - s["reference.logp"], parts["train"])
        good_S = s["label"] > 0
        ctx.log(reward=self.beta * ratio_S, kl=kl.expand_as(ratio_S), accuracy=((ratio_S > 0) == good_S).float())
        weight_S = torch.where(good_S, self.desirable, self.undesirable)
        return weight_S * torch.sigmoid(-self.beta * torch.where(good_S, ratio_S - kl, kl - ratio_S))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


CASES = (
    # Mismatched ratios 1.0 and 0.5: z0 = 0.75. Ratios 1.5 (good) and -0.5 (bad).
    Case(
        "a good and a bad answer around a positive reference point",
        KTO(beta=0.5, desirable=1.0, undesirable=3.0),
        {
            "train": {"logp": [[-1.0, -0.5], [-2.0]], "reference.logp": [[-1.5, -1.5], [-1.5]], "label": [1.0, 0.0]},
            "kl": {"logp": [[-1.0], [-0.5, -0.5]], "reference.logp": [[-2.0], [-1.0, -0.5]]},
        },
        loss=(_sigmoid(-0.5 * 0.75) + 3 * _sigmoid(-0.5 * 1.25)) / 2,
        gradient={"train/logp": [[-0.25 * _sigmoid(0.375) * _sigmoid(-0.375)] * 2, [0.75 * _sigmoid(0.625) * _sigmoid(-0.625)]]},
        logs={"kl": 0.75, "reward": 0.25, "accuracy": 1.0},
    ),
    Case(
        "a negative estimate is 0, and a segment without scored tokens does not count",
        KTO(beta=1.0, desirable=2.0),
        {
            "train": {"logp": [[-1.0, 5.0]], "reference.logp": [[-0.5, 0.0]], "label": [1.0]},
            "kl": {"logp": [[-3.0]], "reference.logp": [[-1.0]]},
        },
        weights={"train": [[1, 0]]},
        loss=2 * _sigmoid(0.5),
        logs={"kl": 0.0, "accuracy": 0.0},
    ),
    Case(
        "mismatched segments without scored tokens are not counted in the mean",
        KTO(beta=1.0),
        {
            "train": {"logp": [[-1.0]], "reference.logp": [[-1.0]], "label": [0.0]},
            "kl": {"logp": [[-1.0], [7.0], [-1.0]], "reference.logp": [[-3.0], [0.0], [-5.0]]},
        },
        weights={"kl": [[1], [0], [1]]},
        loss=_sigmoid(-3.0),
        logs={"kl": 3.0},
    ),
    # Ratios 0.5 and 0.25, both desirable; nothing to estimate the reference point from.
    Case(
        "two answers to one prompt are two, and no scored mismatched token means a reference point of 0",
        KTO(beta=1.0),
        {
            "train": {"logp": [[-1.0], [-1.0]], "reference.logp": [[-1.5], [-1.25]], "label": [1.0, 1.0]},
            "kl": {"logp": [[-1.0], [-2.0]], "reference.logp": [[-3.0], [-5.0]]},
        },
        weights={"kl": [[0], [0]]},
        groups={"train": [0, 0], "kl": [0, 0]},
        loss=(_sigmoid(-0.5) + _sigmoid(-0.25)) / 2,
        logs={"kl": 0.0, "accuracy": 1.0},
    ),
    Case(
        "one mismatched answer is its own mean",
        KTO(beta=1.0),
        {"train": {"logp": [[-1]], "reference.logp": [[-1]], "label": [0]}, "kl": {"logp": [[-1]], "reference.logp": [[-3]]}},
        loss=_sigmoid(-2.0),
    ),
)
