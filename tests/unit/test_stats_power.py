"""Power and minimum detectable effects against statsmodels, simulation and the tests they speak of."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from tempering import power, stats


@pytest.mark.parametrize(("n", "discordance", "difference"), [(50, 0.3, 0.2), (200, 0.1, 0.06), (1000, 0.1, 0.03), (40, 0.2, 0.2), (60, 0.5, 0.0)])
def test_mcnemar_power_is_what_simulation_finds(n: int, discordance: float, difference: float) -> None:
    up, down = (discordance + difference) / 2, (discordance - difference) / 2
    draws = np.random.default_rng(0).multinomial(n, [up, max(down, 0.0), 1 - discordance], 20_000)
    tables, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    rejected = sum(count for (b, c), count in zip(tables, counts, strict=True) if stats.mcnemar(int(b), int(c)) <= 0.05)
    assert power.mcnemar_power(n, discordance, difference) == pytest.approx(rejected / 20_000, abs=0.012)


def test_power_under_the_null_is_the_size() -> None:
    for n in (20, 200, 2000):
        assert 0 < power.mcnemar_power(n, 0.3, 0.0) <= 0.05
    assert power.mcnemar_power(100, 0.0, 0.0) == 0.0


@pytest.mark.parametrize(("n", "discordance"), [(30, 0.0), (50, 0.1), (200, 0.02), (1000, 0.3)])
def test_mde_has_the_power_it_says(n: int, discordance: float) -> None:
    found = power.binary_mde(n, discordance)
    assert found is not None
    assert power.mcnemar_power(n, max(discordance, found), found) == pytest.approx(0.8, abs=1e-4)


def test_mde_by_hand() -> None:
    # all changes one way: exact McNemar rejects from 6 on, and 7.9 are expected where 6 or more come with 80%
    found = power.binary_mde(1000, 0.0)
    assert found is not None
    assert found * 1000 == pytest.approx(7.9, abs=0.1)
    assert power.binary_mde(5, 0.5) is None
    assert power.binary_mde(6, 0.5) == pytest.approx(0.8 ** (1 / 6), abs=1e-3)


def test_items_needed_turns_mde_around() -> None:
    found = power.binary_items_needed(0.05, 0.1)
    assert found is not None
    assert power.mcnemar_power(found, 0.1, 0.05) >= 0.8 > power.mcnemar_power(found - 12, 0.1, 0.05)
    assert power.binary_items_needed(-0.05, 0.1) == found
    assert power.binary_items_needed(0.0, 0.1) is None


@pytest.mark.parametrize("n", [4, 10, 30, 100, 1000])
def test_mean_mde_is_statsmodels(n: int) -> None:
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert power.mean_mde(n, 2.0) == pytest.approx(2.0 * expected, rel=1e-4)


def test_mean_mde_without_spread() -> None:
    assert power.mean_mde(1, 1.0) is None
    assert power.mean_mde(50, 0.0) is None


def test_share_items_needed() -> None:
    # all kept: 0.05 ** (1 / n) >= 0.98 from n = 149 on
    assert power.share_items_needed(1.0, 0.98) == 149
    assert power.share_items_needed(0.98, 0.98) is None
    for share, threshold in ((0.99, 0.98), (0.9, 0.98), (0.5, 0.45), (0.0, 0.02)):
        n = power.share_items_needed(share, threshold)
        assert n is not None
        low, high = proportion_confint(round(share * n), n, alpha=0.10, method="beta")
        assert not low < threshold < high or abs(min(threshold - low, high - threshold)) < 0.01
