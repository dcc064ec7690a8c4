"""Negative log-likelihood: the next-token cross-entropy of supervised fine-tuning, on the tokens the batch gives weight.

    loss = - sum_t w_t log p(y_t | y_<t) / sum_t w_t,   counted over the whole optimizer step

The divisor counts tokens over the step, not per row or micro-batch, so accumulation changes nothing. `norm="segment_mean"` weighs every row alike
instead. Source: the standard objective (for example Ouyang et al. 2022, arXiv 2203.02155, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.types import Context, Norm, Objective, Parts, Signals

FAMILY = "tokens"


@dataclass(frozen=True)
class NLL(Objective):
    """Cross-entropy on the scored tokens of one part."""

    part: str = "train"
    """The part of the batch that is learned."""
    norm: Norm = "tokens"
    """What the sum is divided by."""

    @property
    def needs(self) -> Mapping[str, frozenset[str]]:
        return {self.part: frozenset({"logp"})}

    def __call__(self, parts: Parts, signals: Signals, ctx: Context) -> Tensor:
        return -signals[self.part]["logp"]
