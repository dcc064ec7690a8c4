"""Alignment by optimal transport: the sorted margins of a whole step, not each pair's, should lie above the reference's.

    paired:    loss = (1/n) sum_k f( (log pi(y_w) - log pi(y_l))_(k) - (log pi_ref(y_w) - log pi_ref(y_l))_(k) )
    unpaired:  loss = (1/n) sum_k f( (log pi/pi_ref)(y_w)_(k) - (log pi/pi_ref)(y_l)_(k) )

with f(d) = - log sigmoid(beta d) and x_(k) the k-th smallest of the step. Melnyk et al. 2024, arXiv 2406.05882, equations 10 to 13. The k-th smallest
are taken over the optimizer step, so micro-batches change nothing. An unpaired step needs as many chosen answers as rejected ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tempering.cases import Case
from tempering.errors import UserError
from tempering.methods.objectives._paired import EXAMPLE, WEIGHTS, Paired, Pairs, softplus
from tempering.types import Context, Parts, Signals

FAMILY = "pairs"
PAPER = {"optimizer.lr": "5e-6 (not in the paper, by TRL's index; a choice of this project)"}


@dataclass(frozen=True)
class AOT(Paired):
    """Stochastic dominance of one sorted list over another."""

    paired: bool = True
    """Margins against the reference's margins, or chosen against rejected log-ratios."""
    label_smoothing: float = 0.0
    """Probability that the order is the wrong way round."""
    couples = "gather"

    def __post_init__(self) -> None:
        if self.weighting:
            raise UserError("AOT compares sorted lists, in which no entry belongs to one pair: weighting (WPO) has no meaning for it; leave it off")

    def stats(self, parts: Parts, signals: Signals) -> Mapping[str, Tensor]:
        """Each pair's entry in both lists."""
        return dict(zip(("high", "low"), self._lists(self.pairs(parts, signals)), strict=True))

    def _lists(self, pair: Pairs) -> tuple[Tensor, Tensor]:
        """What should be high, and what it should be above [S]."""
        if not self.paired:
            return pair.chosen, pair.rejected
        margin_S = pair.chosen_logp - pair.rejected_logp
        return margin_S, margin_S - (pair.chosen - pair.rejected)

    def _dominates(self, delta_S: Tensor) -> Tensor:
        margin_S = self.beta * delta_S
        return -(1 - self.label_smoothing) * F.logsigmoid(margin_S) - self.label_smoothing * F.logsigmoid(-margin_S)

    def loss(self, pair: Pairs, ctx: Context) -> Tensor:
        high_S, low_S = self._lists(pair)
        high, low = ctx.stats["high"], ctx.stats["low"]
        above_S = self._dominates(high_S - low.sort().values[_rank(high)[ctx.mine]])
        # The same sum of losses once more, by the other list: it adds that list's gradient and no value.
        below_S = self._dominates(high.sort().values[_rank(low)[ctx.mine]] - low_S)
        return above_S + below_S - below_S.detach()


def _rank(value: Tensor) -> Tensor:
    return value.argsort(stable=True).argsort()


# Chosen log-ratios 0.5, -0.4, 0.1; rejected -1.0, 0.8, -0.2.
_THREE = {
    "chosen": {"logp": [*EXAMPLE["chosen"]["logp"], [-1.0]], "reference.logp": [*EXAMPLE["chosen"]["reference.logp"], [-1.1]]},
    "rejected": {"logp": [*EXAMPLE["rejected"]["logp"], [-4.0]], "reference.logp": [*EXAMPLE["rejected"]["reference.logp"], [-3.8]]},
}
_WEIGHTS = {"chosen": [*WEIGHTS["chosen"], [1.0]], "rejected": [*WEIGHTS["rejected"], [1.0]]}


def _slope(margin: float, flipped: float = 0.0) -> float:
    return 0.5 * (flipped / (1 + math.exp(-margin)) - (1 - flipped) / (1 + math.exp(margin))) / 3


CASES = (
    Case(
        "margins 0, -0.2, 3 against the reference's -1.5, 1, 2.7",
        AOT(beta=0.5),
        _THREE,
        weights=_WEIGHTS,
        # Sorted: -0.2, 0, 3 against -1.5, 1, 2.7.
        loss=(softplus(-0.65) + softplus(0.5) + softplus(-0.15)) / 3,
        gradient={
            "chosen/logp": [[_slope(-0.5), _slope(-0.5) / 2, 0.0], [_slope(0.65)], [_slope(0.15)]],
            "rejected/logp": [[-_slope(-0.5)], [-_slope(0.65)] * 2, [-_slope(0.15)]],
        },
    ),
    Case(
        "unpaired: -0.4, 0.1, 0.5 against -1, -0.2, 0.8",
        AOT(beta=0.5, paired=False, label_smoothing=0.2),
        _THREE,
        weights=_WEIGHTS,
        loss=sum(0.8 * softplus(-d) + 0.2 * softplus(d) for d in (0.3, 0.15, -0.15)) / 3,
        gradient={
            "chosen/logp": [[_slope(-0.15, 0.2), _slope(-0.15, 0.2) / 2, 0.0], [_slope(0.3, 0.2)], [_slope(0.15, 0.2)]],
            "rejected/logp": [[-_slope(0.3, 0.2)], [-_slope(-0.15, 0.2)] * 2, [-_slope(0.15, 0.2)]],
        },
    ),
)
