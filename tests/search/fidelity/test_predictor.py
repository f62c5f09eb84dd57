from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.fidelity.predictor import MARGIN, Finished, Predictor


def learned(count: int, seed: int = 0) -> Predictor:
    rng = np.random.default_rng(seed)
    predictor = Predictor()
    for _ in range(count):
        size, value = rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.8)
        predictor.add(Finished(size, {0: value - 1, 1: value}, 0.9 * value + 0.1))
    return predictor


def test_waits_for_a_finished_trial_of_no_larger_size() -> None:
    predictor = Predictor()
    assert not predictor.ready(0.5)
    for size in (0.5, 0.55, 0.6):
        predictor.add(Finished(size, {1: 0.5}, 0.6))
    assert predictor.ready(0.5)
    assert not predictor.ready(0.4)


@pytest.mark.parametrize("rung", [0, 1])
def test_follows_the_rung_where_it_tells_something(rung: int) -> None:
    predictor = learned(20)
    values = [0.2, 0.4, 0.6] if rung == 1 else [-0.8, -0.6, -0.4]
    low, middle, high = (predictor.predict(0.59, rung, v) for v in values)
    assert low < middle < high
    assert middle == pytest.approx(0.9 * 0.4 + 0.1, abs=0.05)


@pytest.mark.parametrize("count", [3, 4, 30])
def test_a_prediction_is_always_dominated_by_a_finished_trial(count: int) -> None:
    predictor = learned(count)
    for size in np.linspace(0.3, 0.6, 13):
        if not predictor.ready(size):
            continue
        guess = predictor.predict(size, 1, 5.0)
        best = max(f.retention for f in predictor.finished if f.size <= size)
        assert guess <= best - MARGIN


def test_few_finished_trials_give_their_worst() -> None:
    predictor = Predictor()
    for retention in (0.5, 0.6, 0.7):
        predictor.add(Finished(0.3, {1: 0.4}, retention))
    assert predictor.predict(0.4, 1, 0.39) == 0.5
