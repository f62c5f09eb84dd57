from __future__ import annotations

import math

import numpy as np
import pytest

from autoprune.search.fidelity.correlation import (
    BIN,
    Correlation,
    Unstopped,
    rank_correlation,
    spearman,
)
from autoprune.search.fidelity.trust import RISK, lost, needed, stopped_share

# first, second, expected
SPEARMAN = {
    "same order": ([1, 2, 3, 9], [0.1, 0.2, 0.3, 0.4], 1.0),
    "turned round": ([1, 2, 3], [3, 2, 1], -1.0),
    # Ranks 1 2.5 2.5 4 against 1 2 3 4: covariance 4.5, spreads 4.5 and 5.
    "ties have their mean rank": ([1, 5, 5, 7], [1, 2, 3, 4], math.sqrt(0.9)),
    "constant": ([1, 1, 1], [1, 2, 3], 0.0),
}


@pytest.mark.parametrize("name", SPEARMAN)
def test_spearman(name: str) -> None:
    first, second, expected = SPEARMAN[name]
    assert spearman(first, second) == pytest.approx(expected)


def trials(count: int, seed: int = 0, noise: float = 0.0, slope: float = 0.0) -> list[Unstopped]:
    """Retention is the rung's value and noise; both rise with size by ``slope``."""
    dice = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size, own, other = dice.uniform(0.3, 0.6), dice.normal(), dice.normal()
        value = own + slope * size
        end = own + noise * other + slope * size
        found.append(Unstopped(number, size, {1: value}, end))
    return found


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_too_few_trials_say_nothing(count: int) -> None:
    found = rank_correlation(trials(count), 1)
    assert (found.trials, found.value, found.low) == (count, None, None)
    assert stopped_share(0.5, found) == 0.5


def test_trials_without_a_value_at_the_rung_are_left_out() -> None:
    assert rank_correlation(trials(20), 0) == Correlation(0)


def test_few_trials_have_a_wide_interval() -> None:
    few, many = (rank_correlation(trials(n, noise=1.0), 1) for n in (7, 200))
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert few.high - few.low > 1.0
    assert many.high - many.low < 0.3


def test_size_alone_is_no_agreement() -> None:
    """The rung's value tells nothing but how large a candidate is, and so does retention."""
    dice = np.random.default_rng(3)
    found = []
    for number in range(80):
        size = dice.uniform(0.3, 0.6)
        a, b = dice.normal(size=2)
        found.append(Unstopped(number, size, {1: 3 * size + 0.2 * a}, 3 * size + 0.2 * b))
    pooled = rank_correlation(found, 1)
    plain = spearman([t.values[1] for t in found], [t.retention for t in found])
    assert pooled.bins == 4
    assert pooled.value is not None
    assert plain > 0.5 > pooled.value + 0.2


@pytest.mark.parametrize("noise", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("count", [6, 8, 12, 24])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(count: int, noise: float) -> None:
    pearson = 1 / math.sqrt(1 + noise**2)
    truth = 6 / math.pi * math.asin(pearson / 2)
    held, turns = 0, 150
    for seed in range(turns):
        found = rank_correlation(trials(count, seed, noise), 1)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert held / turns > 0.9


def test_the_order_of_trials_does_not_matter() -> None:
    given = trials(23, noise=1.0)
    assert rank_correlation(given, 1) == rank_correlation(given[::-1], 1)


def test_a_bin_that_ranks_nothing_counts_as_none() -> None:
    flat = [Unstopped(i, 0.4, {1: 0.5}, 0.1 * i) for i in range(BIN + 1)]
    assert rank_correlation(flat, 1).value == 0.0


def test_risk_by_simulation() -> None:
    dice = np.random.default_rng(0)
    x = dice.normal(size=200_000)
    y = 0.6 * x + 0.8 * dice.normal(size=x.size)
    rho = 6 / math.pi * math.asin(0.3)
    stopped = x < np.quantile(x, 0.4)
    best = y > np.quantile(y, 0.75)
    assert lost(0.4, rho) == pytest.approx(stopped[best].mean(), abs=0.005)


def measured(value: float, freedom: int = 10_000) -> Correlation:
    return Correlation(freedom, 4, freedom, value, value, value)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_rung_that_ranks_badly_stops_less(share: float) -> None:
    shares = [stopped_share(share, measured(rho)) for rho in (-0.5, 0.0, 0.2, 0.4, 0.6, 0.9)]
    assert shares == sorted(shares)
    assert shares[:2] == pytest.approx([RISK, RISK], abs=0.01)
    assert shares[-1] == share
    assert stopped_share(share, measured(needed(share) + 0.01)) == share
    assert lost(stopped_share(share, measured(0.2)), 0.2) == pytest.approx(RISK, abs=0.01)


def test_few_trials_move_little() -> None:
    shares = [stopped_share(0.5, measured(0.0, freedom)) for freedom in (3, 10, 100)]
    assert 0.5 > shares[0] > 0.3 > shares[1] > shares[2] > RISK
