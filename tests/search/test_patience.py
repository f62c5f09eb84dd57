from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.outlook import (
    confirmation_seconds,
    sampled_gains,
    seconds_a_trial,
    trials_left,
)
from autoprune.search.patience import LEAST, POINT, exhausted, expected_gain
from autoprune.search.settings import make_settings
from autoprune.tracking.records.trial import TrialRecord

MINUTES = 60.0


def random_search(count: int, seed: int) -> list[float]:
    """Gains of independent draws from a triangle below a slanting line, of area a half."""
    dice = np.random.default_rng(seed)
    records = []
    for number in range(count):
        size = dice.uniform()
        records.append(record(number, size, size * dice.uniform() ** 0.5))
    return sampled_gains(records, "params")


def record(number: int, size: float, retention: float, **more: object) -> TrialRecord:
    values = {"state": "complete", "fidelity": 1.0, "stage_seconds": {"recover": 60.0}, **more}
    return TrialRecord(trial=number, fraction=size, retention=retention, **values)


# name, gains, points that are left to be had in an hour of 6 trials: at least, at most
HISTORIES = {
    "it rises as fast as ever": ([0.01] * 30, 3.0, 6.0),
    "everything came early": ([0.1, 0.05, 0.03, 0.02] + [0.0] * 26, 0.0, 0.1),
    "nothing came at all": ([0.0] * 30, 0.0, 0.0),
    "it has begun to rise again": ([0.1] + [0.0] * 20 + [0.01] * 6, 1.0, 6.0),
    "as 1/i, for ever": ([0.1 / i for i in range(1, 31)], 1.5, 2.0),  # 10 ln(36/30) = 1.8
}


@pytest.mark.parametrize("name", HISTORIES)
def test_what_an_hour_is_expected_to_bring(name: str) -> None:
    gains, least, most = HISTORIES[name]
    found = expected_gain(gains, 10 * MINUTES)
    assert found is not None
    assert least <= found / POINT <= most


def test_nothing_is_expected_before_there_is_a_history() -> None:
    assert expected_gain([0.0] * (LEAST - 1), 60.0) is None
    assert expected_gain([0.0] * LEAST, 0.0) is None
    assert not exhausted(None, 1000.0)
    assert not exhausted(0.0, None)


def test_the_expectation_is_right_on_average_of_independent_draws() -> None:
    ratios = []
    for start in (20, 60):
        expected, came = [], []
        for seed in range(60):
            gains = random_search(start + 20, seed)
            found = expected_gain(gains[:start], 3600 / 20)
            assert found is not None
            expected.append(found)
            came.append(sum(gains[start:]))
        ratios.append(np.mean(expected) / np.mean(came))
    assert all(0.7 < ratio < 1.6 for ratio in ratios), ratios


def test_patience_ends_a_saturated_search_and_no_rising_one() -> None:
    def ends(gains: list[float], patience: float) -> int | None:
        for count in range(1, len(gains) + 1):
            if exhausted(expected_gain(gains[:count], 10 * MINUTES), patience):
                return count
        return None

    saturated = [0.05, 0.04, 0.0, 0.03, 0.02, 0.0, 0.01] + [0.0] * 60
    found = ends(saturated, 0.5)
    assert found is not None
    assert LEAST <= found < 30
    assert ends([0.004] * 60, 0.5) is None
    later = ends(saturated, 0.1)
    assert later is not None
    assert later > found


def test_gains_are_the_samplers_own_in_the_order_of_numbers() -> None:
    records = [
        record(0, 0.6, 0.5, origin="uniform-width"),
        record(1, 0.5, 0.5),
        record(3, 0.5, 0.4),
        record(2, 0.4, 0.0, state="stopped", fidelity=0.33),
        record(4, 0.4, 0.5, origin="refine"),
        record(5, 0.4, 0.6),
        record(6, 0.3, 0.9, state="running"),
        record(7, 0.3, 0.9, state="failed", fidelity=0.0),
    ]
    expected = pytest.approx([0.05, 0.0, 0.0, 0.06, 0.0])
    assert sampled_gains(records, "params") == expected
    assert sampled_gains(records[::-1], "params") == expected
    assert seconds_a_trial(records, 2) == 30.0
    assert seconds_a_trial(records[:1], 2) == 0.0


def test_confirmation_is_reckoned_from_what_members_took() -> None:
    took = {"prune": 1.0, "recover": 10.0, "proxy": 5.0, "evaluate": 8.0}
    base = record(0, 0.6, 0.5, origin="uniform-width", stage_seconds=took)
    own = record(1, 0.5, 0.6, stage_seconds=took)
    asked = make_settings({"confirm_seeds": 3, "workers": 2})
    # Two members of 11 seconds, and of 4 seconds of scoring on twice the questions; thrice, by two.
    assert confirmation_seconds([base, own], [own], asked, 2, 2.0) == 2 * (11 + 8) * 3 / 2
    assert confirmation_seconds([base, own], [own, base], asked, 2, 2.0) == 2 * (11 + 8) * 3 / 2
    assert confirmation_seconds([base, own], [own], asked, 2, 0.25) == 2 * (11 + 1) * 3 / 2
    assert confirmation_seconds([], [], asked, 2, 2.0) == 0.0


def test_the_time_left_is_that_of_what_is_still_to_come() -> None:
    settings = make_settings({"trials": 10, "workers": 2})

    def spent(trial: int, seconds: float, **values: object) -> TrialRecord:
        return record(trial, 0.5, 0.5, stage_seconds={"recover": seconds}, **values)

    base = [spent(n, 60.0, origin="uniform-width") for n in range(2)]
    running = record(2, 0.5, 0.5, state="running")
    assert trials_left([running], settings) is None
    assert trials_left(base, settings) == 8 * 60 / 2
    # One running trial is half done; two of the sampler's do not yet tell.
    assert trials_left([*base, running], settings) == 7.5 * 60 / 2
    own = [spent(3 + n, 10.0, state="stopped") for n in range(3)]
    assert trials_left([*base, *own[:2]], settings) == 6 * 35 / 2
    assert trials_left([*base, *own], settings) == 5 * 10 / 2
    failed = spent(8, 0.1, state="failed")
    assert trials_left([*base, *own, failed], settings) == 4 * 10 / 2
    assert trials_left([*own, *(spent(10 + n, 10.0) for n in range(7))], settings) == 0
