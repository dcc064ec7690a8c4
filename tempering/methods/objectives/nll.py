"""Negative log-likelihood: the next-token cross-entropy of supervised fine-tuning, on the tokens the batch gives weight.

    loss = - sum_t w_t log p(y_t | y_<t) / sum_t w_t,   counted over the whole optimizer step

The divisor counts tokens over the step, not per row or micro-batch, so accumulation changes nothing. `norm="segment_mean"` weighs every row alike
instead. Source: the standard objective (for example Ouyang et al. 2022, arXiv 2203.02155, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tempering.cases import Case
from tempering.types import Context, Norm, Objective, Parts, Signals


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


_LOGPS = {"logp": [[-1, -2, -4], [-8], [-16, -32]]}
_WEIGHTS = [[0, 1, 0.5], [2], [1, 1]]
# Weighted sums of the segments: 4, 16, 48; weights: 1.5, 2, 2.

CASES = (
    Case(
        "all tokens of the step alike",
        NLL(),
        {"train": _LOGPS},
        weights={"train": _WEIGHTS},
        loss=(4 + 16 + 48) / 5.5,
        gradient={"train/logp": [[0, -1 / 5.5, -0.5 / 5.5], [-2 / 5.5], [-1 / 5.5, -1 / 5.5]]},
    ),
    Case("all rows alike", NLL(norm="segment_mean"), {"train": _LOGPS}, weights={"train": _WEIGHTS}, loss=(4 / 1.5 + 16 / 2 + 48 / 2) / 3),
    Case(
        "sums of rows, of which one is not scored",
        NLL("retain", "segments"),
        {"retain": {"logp": [[-1, -2], [-5]]}},
        loss=3,
        weights={"retain": [[1, 1], [0]]},
    ),
    Case("by prompt", NLL(norm="groups"), {"train": _LOGPS}, weights={"train": _WEIGHTS}, groups={"train": [0, 0, 1]}, loss=(4 + 16 + 48) / 2),
    Case("by a constant", NLL(norm=8.0), {"train": _LOGPS}, weights={"train": _WEIGHTS}, loss=(4 + 16 + 48) / 8),
)
