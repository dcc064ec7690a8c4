"""Win rates: A's mean share of the items, and what it would be were both answers of one length.

The second is the length-controlled win rate of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): a logistic regression of the verdicts on which
model it is and on the difference in length, read at no difference. Their third term, how hard a prompt is, needs many models and is left out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError
from tempering.judge.verdicts import Duel
from tempering.stats import Interval, mean_interval, share_interval


@dataclass(frozen=True)
class WinRate:
    """How often A wins, ties counting a half."""

    rate: Interval
    wins: int
    """Items of which A got more than half."""
    ties: int
    losses: int
    left_out: int
    """Items with a verdict that could not be read."""
    p: float
    """Exact sign test over the items that are not ties."""


def win_rate(duel: Duel, *, level: float = 0.95, seed: int = 0) -> WinRate:
    """A's win rate over the items with readable verdicts.

    Raises:
        UserError: no item has.
    """
    from scipy.stats import binomtest

    scores = _scores(duel)
    wins, losses = sum(s > 0.5 for s in scores), sum(s < 0.5 for s in scores)
    binary = all(s in (0.0, 1.0) for s in scores)
    rate = share_interval(wins, len(scores), level=level) if binary else mean_interval(scores, level=level, seed=seed)
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return WinRate(rate, wins, len(scores) - wins - losses, losses, len(duel.items) - len(scores), p)


def _scores(duel: Duel) -> list[float]:
    scores = [item.score for item in duel.items if item.score is not None]
    if not scores:
        raise UserError(f"none of the judge's {duel.asked} verdicts could be read, so there is no win rate; look at what it answers")
    return scores


def length_controlled(duel: Duel, *, level: float = 0.95) -> Interval:
    """A's win rate were its answers as long as B's (in characters): logistic(theta) of P(A wins) = logistic(theta + phi * tanh(d / sd(d))).

    The interval is Wald's on theta with the sandwich variance, since an item's score is no single coin.

    Raises:
        UserError: no readable verdict, or verdicts that a length difference tells apart without exception, where the regression has no answer.
    """
    scores = _scores(duel)
    lengths = [float(len(item.a) - len(item.b)) for item in duel.items if item.score is not None]
    return controlled_rate(scores, lengths, level=level)


def controlled_rate(scores: Sequence[float], differences: Sequence[float], *, level: float = 0.95) -> Interval:
    """The regression behind `length_controlled`.

    Args:
        scores: [N] A's share of each item, 0 to 1. differences: [N] length of A's answer minus B's.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit
    from scipy.stats import norm

    y, d = np.asarray(scores, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    # About zero, not about the mean: swapping A and B must turn the sign of the difference and nothing else.
    spread = math.sqrt(float((d**2).mean()))
    x = np.tanh(d / spread) if spread > 0 else d
    design = np.stack([np.ones_like(x), x], 1) if np.ptp(x) > 0 else np.ones((len(x), 1))
    if len(y) <= design.shape[1] or not 0 < y.mean() < 1:
        raise UserError("length control: A wins or loses every item, or there are too few items; look at the plain win rate")

    def loss(b: Any) -> tuple[float, Any]:
        z = design @ b
        return float(np.logaddexp(0, z).sum() - y @ z), design.T @ (expit(z) - y)

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 500})
    p = expit(design @ found.x)
    bread = design.T @ (design * (p * (1 - p))[:, None])
    if np.abs(found.x).max() > 15 or np.linalg.cond(bread) > 1e10:
        raise UserError("length control: the difference in length tells wins from losses without exception, so the regression has no answer")
    residual = design * (y - p)[:, None]
    inverse = np.linalg.inv(bread)
    error = math.sqrt(float((inverse @ (residual.T @ residual) @ inverse)[0, 0]))
    half = float(norm.ppf(0.5 + level / 2)) * error
    low, point, high = (float(expit(found.x[0] + step)) for step in (-half, 0.0, half))
    return Interval(point, low, high, level, "logistic regression, sandwich Wald")
