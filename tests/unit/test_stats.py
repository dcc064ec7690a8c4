"""The statistics against SciPy and statsmodels on the same items, and against closed forms."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as st
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tempering import stats
from tempering.errors import UserError

COUNTS = [(0, 1), (1, 0), (3, 3), (5, 0), (6, 0), (7, 2), (12, 30), (100, 80), (0, 40)]


@pytest.mark.parametrize(("gained", "lost"), COUNTS)
def test_mcnemar_exact_is_statsmodels(gained: int, lost: int) -> None:
    expected = sm_mcnemar([[50, lost], [gained, 20]], exact=True).pvalue
    assert stats.mcnemar(gained, lost) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_by_hand() -> None:
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(6, 0) == pytest.approx(2 / 64)
    # mid-p counts the observed table half: 2 * (1/64) / 2, and 2 * (P(0) + P(1) / 2) of 6 coins
    assert stats.mcnemar(6, 0, mid_p=True) == pytest.approx(1 / 64)
    assert stats.mcnemar(5, 1, mid_p=True) == pytest.approx(2 * (1 / 64 + 3 / 64))
    assert stats.mcnemar(3, 3, mid_p=True) == pytest.approx(1.0)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (7, 10), (412, 430), (1, 1)])
def test_shares_are_statsmodels(hits: int, n: int) -> None:
    for ours, theirs in (("wilson", "wilson"), ("exact", "beta")):
        found = stats.share_interval(hits, n, method=ours)  # type: ignore[arg-type]
        low, high = proportion_confint(hits, n, alpha=0.05, method=theirs)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-10)
    found = stats.share_interval(hits, n, method="one-sided")
    low, high = proportion_confint(hits, n, alpha=0.10, method="beta")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-10)


def test_all_kept_has_the_rule_of_three_like_bound() -> None:
    assert stats.share_interval(149, 149, method="one-sided").low == pytest.approx(0.05 ** (1 / 149))


def test_holm_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for m in (1, 2, 7, 40):
        p = rng.random(m) ** 3
        p[: m // 3] = p[0]  # ties
        assert stats.holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)
    assert stats.holm([]) == []
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_tango_limits_solve_the_score_equation() -> None:
    """At each limit the score statistic, written from the constrained likelihood maximised numerically, is +-1.96."""
    b, c, n = 38, 7, 100
    found = stats.paired_share_interval(b, c, n)
    assert (found.conservative, found.method) == (False, "Tango score")

    def score(d: float) -> float:
        def loss(q: float) -> float:
            return -(b * math.log(q + d) + c * math.log(q) + (n - b - c) * math.log(1 - 2 * q - d))

        from scipy.optimize import minimize_scalar

        q = minimize_scalar(loss, bounds=(max(0.0, -d) + 1e-9, (1 - d) / 2 - 1e-9), method="bounded", options={"xatol": 1e-12}).x
        return (b - c - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))

    z = st.norm.ppf(0.975)
    assert found.low is not None and found.high is not None
    assert score(found.low) == pytest.approx(z, abs=1e-4)
    assert score(found.high) == pytest.approx(-z, abs=1e-4)


def test_no_change_has_tangos_closed_form_or_wider() -> None:
    # with nothing changed Tango's limit is z^2 / (n + z^2); Bonett and Price's is z sqrt(2 / (n + 2)^2 ... ) by hand
    low, high, few = stats.paired_share_limits(0, 0, 100)
    z = st.norm.ppf(0.975)
    expected = max(z**2 / (100 + z**2), z * math.sqrt((2 / 102) / 102))
    assert few
    assert (float(low), float(high)) == pytest.approx((-expected, expected), abs=1e-9)


@pytest.mark.parametrize(("b", "c", "n"), [(8, 2, 50), (30, 10, 100), (0, 20, 20), (1, 1, 2), (0, 0, 1), (500, 400, 1000)])
def test_intervals_turn_with_the_sides_and_hold_the_point(b: int, c: int, n: int) -> None:
    one, two = stats.paired_share_interval(b, c, n), stats.paired_share_interval(c, b, n)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-9)  # type: ignore[operator]
    assert -1 <= one.low <= one.point <= one.high <= 1  # type: ignore[operator]
    wider = stats.paired_share_interval(b, c, n, level=0.99)
    assert wider.low <= one.low and wider.high >= one.high  # type: ignore[operator]


def test_paired_t_is_scipy() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 1, 30), rng.normal(0.3, 1.2, 30)
    expected = st.ttest_rel(after, before)
    assert stats.paired_t(list(after - before)) == pytest.approx(expected.pvalue, rel=1e-12)
    bounds = expected.confidence_interval(0.95)
    found = stats.mean_interval(list(after - before), method="t")
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), rel=1e-10)


def test_paired_t_without_spread() -> None:
    assert stats.paired_t([0.0] * 9) == 1.0
    assert stats.paired_t([0.5] * 5) == 2 * 0.5**5
    assert stats.paired_t([0.5]) == 1.0


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstraps_are_scipys_on_the_same_seed(method: str) -> None:
    x = np.random.default_rng(2).exponential(1, 40)
    found = stats.mean_interval(list(x), method=method, seed=7, resamples=999)  # type: ignore[arg-type]
    theirs = st.bootstrap((x,), np.mean, n_resamples=999, method="BCa" if method == "bca" else "percentile", rng=np.random.default_rng(7))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)


def test_studentised_bootstrap_is_the_definition_and_near_scipys() -> None:
    x = np.random.default_rng(3).normal(0.2, 1, 200)
    found = stats.mean_interval(list(x), seed=5)
    assert found.method == "studentised bootstrap"
    again = stats.mean_interval(list(x), seed=5)
    other = stats.mean_interval(list(x), seed=6)
    assert found == again
    assert other != found
    t = stats.mean_interval(list(x), method="t")
    theirs = st.bootstrap((x,), np.mean, n_resamples=4999, method="BCa", rng=np.random.default_rng(5)).confidence_interval
    for low, high in ((t.low, t.high), theirs):
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)

    # the definition, one resample at a time
    rng = np.random.default_rng(5)
    small = x[:20]
    draws = rng.integers(0, 20, (4999, 20))
    error = small.std(ddof=1) / math.sqrt(20)
    ts = [(small[d].mean() - small.mean()) / (small[d].std(ddof=1) / math.sqrt(20)) for d in draws]
    expected = small.mean() - np.quantile(ts, [0.975, 0.025]) * error
    one = stats.mean_interval(list(small), seed=5)
    assert (one.low, one.high) == pytest.approx(tuple(expected), rel=1e-9)


def test_means_of_few_or_equal_items() -> None:
    one = stats.mean_interval([3.0])
    assert (one.point, one.low, one.high) == (3.0, None, None)
    assert not one.excludes(0.0)
    same = stats.mean_interval([0.25] * 50)
    assert (same.low, same.high) == (0.25, 0.25)
    assert stats.mean_interval([1.0, 2.0, 4.0]).method == "t"
    sparse = stats.mean_interval([0.0] * 60 + [1.0, 2.0, 3.0])
    assert "only 3 of 63 items" in sparse.note
    t = stats.mean_interval([0.0] * 60 + [1.0, 2.0, 3.0], method="t")
    assert sparse.low <= t.low and sparse.high >= t.high  # type: ignore[operator]


def test_chunks_of_the_bootstrap_are_one_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    x = list(np.random.default_rng(4).normal(0, 1, 15_000))
    found = stats.mean_interval(x, resamples=400)  # 133 resamples a chunk
    t = stats.mean_interval(x, method="t")
    assert found.low == pytest.approx(t.low, abs=0.004)
    assert found.high == pytest.approx(t.high, abs=0.004)


def test_seed_interval() -> None:
    before, after = [1.0, 2.0, 3.0, 4.0, 5.0], [1.5, 2.7, 3.1, 4.9, 5.2]
    found = stats.seed_interval(before, after)
    bounds = st.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))
    assert found.note == ""
    assert "at least 5" in stats.seed_interval(before[:3], after[:3]).note
    with pytest.raises(UserError, match="at least 2 paired seeds"):
        stats.seed_interval([1.0], [2.0])
    with pytest.raises(UserError, match="2 numbers before and 1 after"):
        stats.seed_interval([1.0, 2.0], [2.0])


def test_reading_a_ledger_needs_no_heavy_library() -> None:
    code = (
        "import sys, tempering.ledger, tempering.gates, tempering.lost, tempering.power; "
        "print([m for m in ('torch', 'scipy', 'numpy', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
