"""What a difference between two models on the same items is worth.

Both models answered the same items, so everything here is paired: only items whose outcome changed carry information about a change. Intervals are
chosen by what they really cover, enumerated and simulated in tests/unit/test_stats_coverage.py, and not by habit:

- binary items, difference of shares: Tango's score interval. With fewer than 15 changed items or fewer than 30 items it can fall below 93%, so the
  envelope of Tango's and Bonett and Price's intervals is taken, which covers too much where very few items changed; it says so (`conservative`);
- binary items, p value: exact McNemar (conservative) or mid-p; a share: Wilson; a share kept: Clopper-Pearson, each bound one-sided;
- an AUC of two groups that share no item: Newcombe's score interval;
- continuous items: studentised paired bootstrap from 20 items on (t, percentile and BCa cover less on skewed scores), t below; p by paired t;
- a few paired seeds: t, never a bootstrap (over 3 seeds a percentile bootstrap covers 73%, over 5 83%);
- many comparisons in one call: Holm.

NumPy and SciPy are imported inside the functions, because reading a ledger needs the `Interval` type and nothing else of this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tempering.errors import UserError

if TYPE_CHECKING:
    import numpy as np

FEW_CHANGED = 15
FEW_ITEMS = 30
BOOTSTRAP_FROM = 20
BOOTSTRAP_UP_TO = 20_000
"""Above this the t interval is the same to the digits shown, and a bootstrap takes seconds."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds. A bound is None where the items cannot give one."""

    point: float
    low: float | None
    high: float | None
    level: float
    """Two-sided coverage, unless `method` says that each bound is one-sided at this level."""
    method: str
    conservative: bool = False
    """True: covers more than `level` here, because too few items changed for an interval of the right width to exist."""
    note: str = ""

    def excludes(self, value: float) -> bool:
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)


# ---------------------------------------------------------------------------------------------------------------------------- binary, paired


def mcnemar(gained: int, lost: int, *, mid_p: bool = False) -> float:
    """Two-sided McNemar p value: are items gained as often as lost? Exact binomial, or its mid-p version (Lancaster 1961), less conservative.

    Args:
        gained: items wrong before and right after.
        lost: items right before and wrong after.
    """
    from scipy.stats import binom

    changed = gained + lost
    if changed == 0:
        return 1.0
    fewer = min(gained, lost)
    tail = binom.cdf(fewer, changed, 0.5)
    if mid_p:
        tail -= 0.5 * binom.pmf(fewer, changed, 0.5)
    return float(min(1.0, 2.0 * tail))


def paired_share_limits(gained: Any, lost: Any, n: int, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limits of (gained - lost) / n for arrays of counts: low, high, and whether too few items changed for the nominal coverage.

    Args:
        gained, lost: counts, any one shape. n: items of each table.
    """
    import numpy as np
    from scipy.special import ndtri

    b = np.asarray(gained, dtype=np.float64)
    c = np.asarray(lost, dtype=np.float64)
    z = float(ndtri(0.5 + level / 2))
    low, high = _tango(b, c, n, z)
    few = (b + c < FEW_CHANGED) | np.full(b.shape, n < FEW_ITEMS)
    wald_low, wald_high = _bonett_price(b, c, n, z)
    low = np.where(few, np.minimum(low, wald_low), low)
    high = np.where(few, np.maximum(high, wald_high), high)
    return np.maximum(low, -1.0), np.minimum(high, 1.0), few


def paired_share_interval(gained: int, lost: int, n: int, *, level: float = 0.95) -> Interval:
    """Interval for the change of the share of items right, after - before, from paired items (see `paired_share_limits`)."""
    low, high, few = paired_share_limits(gained, lost, n, level=level)
    method = "Tango score"
    note = ""
    if few:
        method = "Tango score and Bonett-Price, the wider"
        why = f"only {gained + lost} of {n} items changed" if gained + lost < FEW_CHANGED else f"only {n} items"
        note = f"conservative: {why}, so the interval is wider than {level:.0%} needs"
    return Interval((gained - lost) / n, float(low), float(high), level, method, bool(few), note)


def _tango(b: np.ndarray, c: np.ndarray, n: int, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Tango (1998), Statistics in Medicine 17, 891-908: all differences that a score test at z does not reject."""
    import numpy as np

    def score(d: np.ndarray) -> np.ndarray:
        # the share lost, by maximum likelihood under the hypothesis that gained - lost is d
        linear = -b - c + (2 * n - b + c) * d
        root = np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0.0))
        lost = (root - linear) / (4 * n)
        variance = np.maximum(n * (2 * lost + d * (1 - d)), 1e-300)
        return (b - c - n * d) / np.sqrt(variance)

    estimate = (b - c) / n
    low = _bisect(score, -np.ones_like(estimate), estimate, z)
    high = _bisect(score, estimate, np.ones_like(estimate), -z)
    return low, high


def _bisect(falling: Any, low: np.ndarray, high: np.ndarray, target: float) -> np.ndarray:
    import numpy as np

    for _ in range(50):  # 2 / 2**50: below the spacing of the shares by far
        middle = (low + high) / 2
        above = falling(middle) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2


def _bonett_price(b: np.ndarray, c: np.ndarray, n: int, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Bonett and Price (2012), Journal of Educational and Behavioral Statistics 37, 479-488: Wald after adding one item to b and one to c."""
    import numpy as np

    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = z * np.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return p - q - half, p - q + half


# ------------------------------------------------------------------------------------------------------------------------------------- shares


def share_interval(hits: int, n: int, *, level: float = 0.95, method: Literal["wilson", "exact", "one-sided"] = "wilson") -> Interval:
    """Interval for a share.

    Args:
        method: "wilson" is near nominal on average, "exact" (Clopper-Pearson) never covers less than `level`; "one-sided" gives two exact bounds
            of which each alone holds at `level`: what "at least" means.
    """
    from scipy.stats import binomtest

    if method == "one-sided":
        test = binomtest(hits, n)
        both = test.proportion_ci(2 * level - 1, method="exact")
        return Interval(hits / n, float(both.low), float(both.high), level, "Clopper-Pearson, each bound one-sided")
    bounds = binomtest(hits, n).proportion_ci(level, method=method)
    name = "Wilson" if method == "wilson" else "Clopper-Pearson"
    return Interval(hits / n, float(bounds.low), float(bounds.high), level, name)


def auc_interval(auc: float, members: int, others: int, *, level: float = 0.95) -> Interval:
    """Interval for an AUC of so many members against so many others, which share no item: all values that a score test does not reject.

    Newcombe 2006 (Statistics in Medicine 25, 559-573), method 5: Hanley and McNeil's variance at the value that is tested, with both group sizes
    replaced by their mean in its last two terms. So it has a width also where the AUC is 1.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z, other = float(ndtri(0.5 + level / 2)), (members + others) / 2 - 1

    def score(true: float) -> float:
        variance = true * (1 - true) * (1 + other * ((1 - true) / (2 - true) + true / (1 + true))) / (members * others)
        return (auc - true) ** 2 - z * z * variance

    # At 0 and 1 the variance is 0 and so is the score of an AUC of just that, which is no bound.
    beside = 1e-9
    low: Any = 0.0 if auc <= 0 else brentq(score, 0, auc - beside)
    high: Any = 1.0 if auc >= 1 else brentq(score, auc + beside, 1)
    return Interval(auc, float(low), float(high), level, "Newcombe 2006, method 5")


# ------------------------------------------------------------------------------------------------------------------------ continuous, paired


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t test (as `scipy.stats.ttest_rel`). Where all differences are one number, the exact sign-flip p instead."""
    import numpy as np
    from scipy.stats import ttest_1samp

    x = np.asarray(differences, dtype=np.float64)
    if np.all(x == 0.0):
        return 1.0
    if len(x) < 2 or np.all(x == x[0]):
        return float(min(1.0, 2.0 ** (1 - len(x))))
    result: Any = ttest_1samp(x, 0.0)
    return float(result.pvalue)


def mean_interval(
    values: Sequence[float],
    *,
    level: float = 0.95,
    method: Literal["auto", "t", "studentised", "percentile", "bca"] = "auto",
    seed: int = 0,
    resamples: int = 4999,
) -> Interval:
    """Interval for a mean; give it the paired differences for the mean of a change.

    Args:
        values: [N] one number per item, finite.
        method: "studentised" is the bootstrap of t (Efron and Tibshirani 1993, chapter 12); "percentile" and "bca" are SciPy's; "auto" is
            studentised from 20 to 20,000 items and t otherwise.
        seed: of the bootstrap; the same seed gives the same bounds.
    """
    import numpy as np
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    point = float(x.mean())
    if n < 2:
        return Interval(point, None, None, level, "none", note="one item gives no interval")
    if np.all(x == x[0]):
        return Interval(point, point, point, level, "none", note="every item gave the same number")
    if method in ("percentile", "bca"):
        kind = "BCa" if method == "bca" else "percentile"
        rng = np.random.default_rng(seed)
        batch = max(1, 2_000_000 // n)
        found = stats.bootstrap((x,), np.mean, n_resamples=resamples, batch=batch, confidence_level=level, method=kind, rng=rng)
        bounds = found.confidence_interval
        return Interval(point, float(bounds.low), float(bounds.high), level, f"{kind} bootstrap")

    error = float(x.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * error
    t_interval = Interval(point, point - half, point + half, level, "t")
    if method == "t" or (method == "auto" and not BOOTSTRAP_FROM <= n <= BOOTSTRAP_UP_TO):
        return t_interval

    t_B = _bootstrap_t(x, seed, resamples)
    low_t, high_t = np.quantile(t_B, [0.5 + level / 2, 0.5 - level / 2])
    low, high, name, note = point - float(low_t) * error, point - float(high_t) * error, "studentised bootstrap", ""
    moved = int(np.count_nonzero(x))
    if moved < FEW_CHANGED:
        low, high, name = min(low, point - half), max(high, point + half), "studentised bootstrap and t, the wider"
        note = f"only {moved} of {n} items differ from 0, so the interval may still be too narrow"
    return Interval(point, low, high, level, name, note=note)


def _bootstrap_t(x: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """[B] t statistics of resamples, without those that drew one value only and so have no spread."""
    import numpy as np

    rng = np.random.default_rng(seed)
    n = len(x)
    chunk = max(1, 2_000_000 // n)
    found = []
    for start in range(0, resamples, chunk):
        x_BN = x[rng.integers(0, n, (min(chunk, resamples - start), n))]
        error_B = x_BN.std(axis=1, ddof=1) / math.sqrt(n)
        spread_B = error_B > 1e-12 * abs(x).max()
        found.append((x_BN.mean(axis=1)[spread_B] - x.mean()) / error_B[spread_B])
    return np.concatenate(found)


def seed_interval(before: Sequence[float], after: Sequence[float], *, level: float = 0.95) -> Interval:
    """t interval for the mean change over paired seeds: `before[i]` and `after[i]` share seed i.

    Raises:
        UserError: lists of different length, or fewer than two seeds.
    """
    if len(before) != len(after):
        raise UserError(f"seed_interval got {len(before)} numbers before and {len(after)} after; give one pair for each seed.")
    if len(before) < 2:
        raise UserError(f"seed_interval got {len(before)} seed(s); an interval needs at least 2 paired seeds, and 5 to be of use.")
    found = mean_interval([a - b for a, b in zip(after, before, strict=True)], level=level, method="t")
    if len(before) >= 5:
        return found
    note = f"{len(before)} seeds: the t interval assumes normal differences and cannot check it; use at least 5"
    return Interval(found.point, found.low, found.high, level, found.method, note=note)


# ------------------------------------------------------------------------------------------------------------------------------- multiplicity


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (1979, Scandinavian Journal of Statistics 6, 65-70), in the order given.

    With all of them compared to alpha, the chance of even one false "changed" among all comparisons is at most alpha, however they depend.
    """
    m = len(p_values)
    adjusted = [0.0] * m
    highest = 0.0
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
