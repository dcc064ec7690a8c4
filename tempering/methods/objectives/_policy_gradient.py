"""What policy gradients share: the part "rollout" with what was sampled, how far the policy has moved since, and a term that holds it to a reference.

A batch has, for each sampled token, "old_logp" (its log-prob when it was sampled) and "advantage"; all else has weight 0. A file of this family is a
class on `PolicyGradient` (any function of these) or `Clipped`, its fields, its divisor, and in `RECIPE` the credit that its paper takes.

Logged: "old_kl", the mean of r - 1 - log r over sampled tokens (r = new / old probability; an estimate of KL(old || new) that is never below 0: k3 of
Schulman 2020, "Approximating KL divergence"), "ratio_far", the share of tokens with |log r| above 0.7, and "kl", k3 against the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tempering.reduce import segment_mean
from tempering.types import Batch, Context, Objective, Parts, Signals

PART = "rollout"
FAR = 0.7
"""A ratio of about two."""


def k3(log_ratio: Tensor) -> Tensor:
    """exp(x) - 1 - x, x = log q / p of what p drew: its mean is KL(p || q) and it is never negative."""
    return torch.expm1(log_ratio) - log_ratio


@dataclass(frozen=True)
class PolicyGradient(Objective):
    """Base of losses on sampled answers with advantages."""

    kl: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence from the reference (k3 at each sampled token), added to the loss; 0 makes no reference."""
    part = PART

    @property
    def reads(self) -> frozenset[str]:
        """What the loss needs of the part."""
        return frozenset({"logp", "old_logp", "advantage"})

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {PART: self.reads | ({"reference.logp"} if self.kl else set())}

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        """Unreduced losses without the reference: [T] or [S], as `per` says."""
        raise NotImplementedError

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        s, batch = signals[PART], parts[PART]
        own_T = batch.weight_T != 0
        moved_N = (s["logp"] - s["old_logp"])[own_T]
        ctx.log(old_kl=k3(moved_N), ratio_far=(moved_N.abs() > FAR).float())
        losses = self.losses(s, batch, ctx)
        if not self.kl:
            return losses
        kl_T = k3(s["reference.logp"] - s["logp"])
        ctx.log(kl=kl_T[own_T])
        return losses + self.kl * (kl_T if self.per == "token" else segment_mean(kl_T, batch))


@dataclass(frozen=True)
class Clipped(PolicyGradient):
    """Base of those that stop a token (or an answer) once its probability has moved far enough in the direction of its advantage."""

    clip_low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """How far below 1 the ratio of probabilities is followed where the advantage is negative."""
    clip_high: Annotated[float, Field(ge=0)] = 0.2
    """How far above 1 it is followed where the advantage is positive."""

    def surrogate(self, log_ratio: Tensor, advantage: Tensor, own: Tensor, ctx: Context) -> Tensor:
        """min(r A, clip(r) A), r the ratio; logs the share of `own` where the clip decides."""
        ratio = log_ratio.exp()
        free, held = ratio * advantage, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantage
        ctx.log(clipped=(held < free)[own].float())
        return torch.minimum(free, held)

    def losses(self, s: Mapping[str, Tensor], batch: Batch, ctx: Context) -> Tensor:
        return -self.surrogate(s["logp"] - s["old_logp"], s["advantage"], batch.weight_T != 0, ctx)


# What hand-worked cases share: three answers, the last of which is not scored. Log-ratios to the old policy 0.1, 0.5, -0.5; 0.3, -0.8 (and others
# without weight); reference less policy -0.3, -0.1, 0.2; -0.2, 0.4.
EXAMPLE: Mapping[str, Mapping[str, list[list[float]]]] = {
    PART: {
        "logp": [[-1.0, -0.5, -2.0], [-0.7, -1.8, -3.0], [-9.0]],
        "old_logp": [[-1.1, -1.0, -1.5], [-1.0, -1.0, -2.0], [-1.0]],
        "advantage": [[2.0, 2.0, 0.5], [-1.0, -1.0, 4.0], [3.0]],
    }
}
REFERENCE: Mapping[str, Mapping[str, list[list[float]]]] = {
    PART: {**EXAMPLE[PART], "reference.logp": [[-1.3, -0.6, -1.8], [-0.9, -1.4, -2.0], [-5.0]]}
}
WEIGHTS = {PART: [[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [0.0]]}
GROUPS = {PART: [0, 0, 1]}
LOGS = {"old_kl": sum(math.exp(x) - 1 - x for x in (0.1, 0.5, -0.5, 0.3, -0.8)) / 5, "ratio_far": 0.2}
REFERENCE_KL = [[math.exp(x) - 1 - x for x in row] for row in ((-0.3, -0.1, 0.2), (-0.2, 0.4))]
"""k3 of its scored tokens."""
