"""Strengths from games between many: Bradley-Terry by maximum likelihood, and Elo as a scale for it or game by game.

Bradley and Terry 1952 (Biometrika 39, 324-345): P(i beats j) = logistic(s_i - s_j). The likelihood has a maximum exactly where everyone is connected
to everyone by a chain of wins (Ford 1957). Intervals are by profile likelihood: those strengths that a likelihood ratio test does not reject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempering.errors import UserError
from tempering.stats import Interval

ELO = 400 / math.log(10)
"""Elo points of one unit of a Bradley-Terry strength."""


@dataclass(frozen=True)
class Strengths:
    """Bradley-Terry strengths relative to the first player, whose strength is 0 and has no interval."""

    names: tuple[str, ...]
    strengths: tuple[Interval, ...]

    def elo(self, anchor: float = 1000.0) -> dict[str, Interval]:
        """The same on Elo's scale: `anchor` for the first player."""
        return {
            name: Interval(anchor + ELO * s.point, _scaled(s.low, anchor), _scaled(s.high, anchor), s.level, s.method)
            for name, s in zip(self.names, self.strengths, strict=True)
        }


def _scaled(bound: float | None, anchor: float) -> float | None:
    return None if bound is None else anchor + ELO * bound


def bradley_terry(names: Sequence[str], wins: Any, *, level: float = 0.95) -> Strengths:
    """Strengths by maximum likelihood with profile likelihood intervals.

    Args:
        names: [P] players. wins: [P, P] how often i beat j; a tie is half a win for each.

    Raises:
        UserError: not such a table, or a group that never lost (or never won) against the rest, whose strength would be infinite.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.sparse.csgraph import connected_components
    from scipy.stats import chi2

    w = np.asarray(wins, dtype=np.float64)
    size = len(names)
    if size < 2 or w.shape != (size, size) or not np.isfinite(w).all() or (w < 0).any() or np.diag(w).any():
        raise UserError(f"Bradley-Terry: expected a table of wins of {size} players (at least 2) against each other, with zeros on its diagonal")
    groups, label = connected_components(w > 0, directed=True, connection="strong")
    if groups > 1:
        alone = [str(name) for name, group in zip(names, label, strict=True) if group == label[0]]
        raise UserError(f"Bradley-Terry: {', '.join(alone)} never lost or never won against the rest, so a strength is infinite; add games")
    best, top = _fit(w, None, 0.0)
    bound = float(chi2.ppf(level, 1)) / 2
    found = [Interval(0.0, None, None, level, "reference")]
    for i in range(1, size):

        def lack(value: float, i: int = i) -> float:
            return top - _fit(w, i, value)[1] - bound

        ends = []
        for sign in (-1, 1):
            step = 1.0
            while lack(best[i] + sign * step) < 0:
                step *= 2
            a, b = sorted((best[i], best[i] + sign * step))
            root: Any = brentq(lack, a, b, xtol=1e-10)
            ends.append(float(root))
        found.append(Interval(float(best[i]), ends[0], ends[1], level, "profile likelihood"))
    return Strengths(tuple(names), tuple(found))


def _fit(w: Any, fixed: int | None, value: float) -> tuple[Any, float]:
    """(strengths [P] with the first at 0 and `fixed` at `value`, log-likelihood), by Newton's method on a concave function."""
    import numpy as np
    from scipy.special import expit

    size = len(w)
    s = np.zeros(size)
    free = [i for i in range(1, size) if i != fixed]
    if fixed is not None:
        s[fixed] = value
    games = w + w.T

    def likelihood(s: Any) -> float:
        return -float((w * np.logaddexp(0, -(s[:, None] - s[None, :]))).sum())

    now = likelihood(s)
    for _ in range(200):
        p = expit(s[:, None] - s[None, :])
        gradient = (w - games * p).sum(1)
        spread = games * p * (1 - p)
        hessian = spread - np.diag(spread.sum(1))
        if not free:
            break
        step = np.zeros(size)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], -gradient[free])
        scale = 1.0
        while likelihood(s + scale * step) < now - 1e-12 and scale > 1e-8:
            scale /= 2
        s = s + scale * step
        now = likelihood(s)
        if np.abs(gradient[free]).max() < 1e-11 or np.abs(step).max() < 1e-13:
            break
    return s, now


def elo(
    games: Sequence[tuple[str, str, float]], *, k: float = 16.0, start: float = 1000.0, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> dict[str, Interval]:
    """Elo ratings game by game: after each, k * (score - expected) moves from one player to the other.

    The result depends on the order of the games. The point is the rating after the games as given; the interval is the percentile bootstrap over
    games, drawn in new orders, so that it holds both. For a set of games without an order, Bradley-Terry is the better summary.

    Args:
        games: (player, opponent, the player's score: 1, 0, or 0.5 for a tie).

    Raises:
        UserError: no games, a game against oneself, or a score outside 0 to 1.
    """
    import numpy as np

    if not games:
        raise UserError("Elo: no games")
    if bad := next((g for g in games if g[0] == g[1] or not 0 <= g[2] <= 1), None):
        raise UserError(f"Elo: {bad!r} is no game: two different players, and a score from 0 to 1")
    point = _played(games, k, start)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in point}
    for _ in range(resamples):
        again = _played([games[i] for i in rng.integers(0, len(games), len(games))], k, start)
        for name in point:
            drawn[name].append(again.get(name, start))
    tail = (1 - level) / 2
    bounds = {name: np.quantile(values, [tail, 1 - tail]) for name, values in drawn.items()} if resamples else {}
    return {
        name: Interval(value, float(bounds[name][0]), float(bounds[name][1]), level, "percentile bootstrap over games")
        if name in bounds
        else Interval(value, None, None, level, "none")
        for name, value in point.items()
    }


def _played(games: Sequence[tuple[str, str, float]], k: float, start: float) -> dict[str, float]:
    ratings: dict[str, float] = {}
    for a, b, score in games:
        ra, rb = ratings.get(a, start), ratings.get(b, start)
        moved = k * (score - 1 / (1 + 10 ** ((rb - ra) / 400)))
        ratings[a], ratings[b] = ra + moved, rb - moved
    return ratings
