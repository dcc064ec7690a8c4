"""What a set of items could have seen: power, minimum detectable effect, and how many items a question needs.

"No change detected" says little unless it comes with the size of a change that would have been detected. For binary items the power is that of the
very test the ledger uses, exact McNemar, summed over the number of items that may change; nothing is approximated by a normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def mcnemar_power(n: int, discordance: float, difference: float, *, alpha: float = 0.05) -> float:
    """The chance that exact McNemar rejects at `alpha`.

    Args:
        n: items.
        discordance: share of items expected to change in either direction, gained + lost.
        difference: gained - lost, as a share; its size is at most `discordance`.
    """
    import numpy as np
    from scipy.stats import binom

    discordance = min(1.0, discordance)
    if discordance <= 0.0:
        return 0.0
    upward = min(1.0, max(0.0, 0.5 + difference / discordance / 2))
    spread = 9 * math.sqrt(n * discordance * (1 - discordance)) + 9
    m = np.arange(max(0, math.floor(n * discordance - spread)), min(n, math.ceil(n * discordance + spread)) + 1)
    # the largest count of the rarer direction that still rejects; -1 where none does
    critical = binom.ppf(alpha / 2, m, 0.5)
    critical = np.where(binom.cdf(critical, m, 0.5) > alpha / 2 * (1 + 1e-12), critical - 1, critical)
    rejects = binom.cdf(critical, m, upward) + binom.sf(m - critical - 1, m, upward)
    return float(np.sum(binom.pmf(m, n, discordance) * rejects))


def binary_mde(n: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest change of the share right that exact McNemar sees with the given power; None where `n` items cannot see any.

    A change of size d moves at least a share d of the items, so the discordance used is the larger of the two.
    """

    def missing(difference: float) -> float:
        return mcnemar_power(n, max(discordance, difference), difference, alpha=alpha) - power

    return _root(missing, 1.0)


def binary_items_needed(difference: float, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """How many items exact McNemar needs to see this change with the given power; None above 100 million.

    Power rises with n in tiny steps back and forth; the answer is where it first stays above, to within those steps.
    """
    size = abs(difference)
    if size == 0.0:
        return None
    return _first(lambda n: mcnemar_power(n, max(discordance, size), size, alpha=alpha) >= power)


def mean_mde(n: int, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest mean change that a paired t test sees with the given power, from the noncentral t distribution.

    Args:
        deviation: standard deviation of the paired differences.
    """
    from scipy.stats import nct, t

    if n < 2 or deviation <= 0.0:
        return None
    critical = t.ppf(1 - alpha / 2, n - 1)

    def missing(shift: float) -> float:
        # the other tail, a significant change the wrong way, is not power
        return float(nct.sf(critical, n - 1, shift)) - power

    # enough also for two items, where the critical value itself is spread widely
    shift = _root(missing, 5.0 + 3 * float(critical))
    return None if shift is None else shift * deviation / math.sqrt(n)


def share_items_needed(share: float, threshold: float, *, level: float = 0.95) -> int | None:
    """About how many items a share as seen needs until its one-sided exact bound leaves the threshold out; None if it equals the threshold."""
    from scipy.stats import beta

    if share == threshold:
        return None

    def decided(n: int) -> bool:
        # hits rounded away from a decision, so that the number given is enough
        if share > threshold:
            hits = math.floor(share * n + 1e-9)
            return hits > 0 and bool(beta.ppf(1 - level, hits, n - hits + 1) >= threshold)
        hits = math.ceil(share * n - 1e-9)
        return hits < n and bool(beta.ppf(level, hits + 1, n - hits) <= threshold)

    return _first(decided)


def _root(rising: Callable[[float], float], top: float) -> float | None:
    from scipy.optimize import root_scalar

    if rising(top) < 0:
        return None
    return float(root_scalar(rising, bracket=(0.0, top), method="brentq", xtol=1e-7).root)


def _first(enough: Callable[[int], bool], most: int = 100_000_000) -> int | None:
    high = 1
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
