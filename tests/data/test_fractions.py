"""Fractions are nested, exact, stratified, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.data.fractions import nested_fraction
from autoprune.errors import AutoPruneError

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=9)
FRACTIONS = st.floats(0, 1, exclude_min=True)


def set_of(sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    strata = rng.permutation(np.repeat(np.arange(len(sizes)) * 3 - 4, sizes))
    # A coarse ring has ties, as samples made from one digit image have.
    return np.floor(rng.random(len(strata)) * 40) / 40, strata


@given(SIZES, FRACTIONS, FRACTIONS, st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_nested_exact_and_stratified(sizes: list[int], f: float, g: float, seed: int) -> None:
    ring, strata = set_of(sizes, seed)
    small, large = sorted((f, g))
    a, b = (nested_fraction(ring, strata, x, seed) for x in (small, large))
    assert set(a) <= set(b)
    assert a.dtype == np.int64
    assert np.all(np.diff(a) > 0)
    assert len(a) == max(1, int(small * len(ring) + 0.5))
    for stratum in set(strata):
        share = len(a) * np.mean(strata == stratum)
        assert abs(np.sum(strata[a] == stratum) - share) < 1
    assert np.array_equal(a, nested_fraction(ring, strata, small, seed))


def test_all_of_it_and_other_seeds() -> None:
    ring, strata = set_of([300, 40, 7], 0)
    assert np.array_equal(nested_fraction(ring, strata, 1, 5), np.arange(347))
    fractions = {tuple(nested_fraction(ring, strata, 0.1, seed)) for seed in range(20)}
    assert len(fractions) == 20


def test_a_fraction_is_an_arc_of_the_ring() -> None:
    ring = np.random.default_rng(0).random(4000)
    chosen = np.sort(ring[nested_fraction(ring, np.zeros(4000, int), 0.2, 3)])
    gaps = np.diff(np.append(chosen, chosen[0] + 1))
    assert np.sort(gaps)[-1] > 0.75  # everything outside the arc
    assert np.sort(gaps)[-2] < 0.01


@pytest.mark.parametrize("fraction", [0, -0.1, 1.0001, 20, float("nan")])
def test_fraction_outside(fraction: float) -> None:
    with pytest.raises(AutoPruneError, match=f"data fraction {fraction:g}"):
        nested_fraction(np.zeros(3), np.zeros(3), fraction, 0)


def test_no_samples() -> None:
    with pytest.raises(AutoPruneError, match="no samples"):
        nested_fraction(np.zeros(0), np.zeros(0), 0.5, 0)
