"""The area under a confirmed front: its figure, its interval, and what two fronts share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from autoprune.evaluation.retention import bootstrap, paired_difference, retention, weighted_sum
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.search.fronts.area import area, difference, stairs, total
from autoprune.search.fronts.confirm import Confirmed, scatter
from autoprune.search.fronts.front import hypervolume
from autoprune.tracking.records.trial import TrialRecord

IMAGES, CHANCE, HARD, SEED_SD = 150, 0.1, 0.7, 0.08
NAMES = np.array([f"i{i}" for i in range(2 * IMAGES)])
OF_IMAGE = np.repeat(NAMES[:IMAGES], 2)
DENSE_ABILITY = 1.6

SPACED = [(0.35, 0.2), (0.4, 0.5), (0.45, 0.8), (0.5, 1.0), (0.6, 1.2)]
NEAR_TIES = [(0.35, 0.8), (0.4, 0.82), (0.42, 0.81), (0.45, 0.83), (0.5, 0.82), (0.6, 0.85)]


def truth(ability: float, seed_sd: float = SEED_SD) -> float:
    kept = norm.cdf(ability / np.sqrt(1 + HARD**2 + seed_sd**2)) - CHANCE
    return float(kept / (norm.cdf(DENSE_ABILITY / np.sqrt(1 + HARD**2)) - CHANCE))


def answer(rng: np.random.Generator, ability: float, hard: np.ndarray) -> TaskScores:
    right = ability - np.repeat(hard, 2) + rng.normal(size=2 * IMAGES) > 0
    values = right.astype(np.float64)
    return TaskScores(
        (TaskScore("read", "m", CHANCE, float(values.mean()), NAMES, OF_IMAGE, values),)
    )


def confirm(
    rng: np.random.Generator, hard: np.ndarray, points: Sequence[tuple[float, float]]
) -> list[Confirmed]:
    """Each point (size, ability) trained with three seeds and asked the same images."""
    found = []
    for trial, (size, ability) in enumerate(points):
        runs = tuple(answer(rng, ability + SEED_SD * rng.normal(), hard) for _ in range(3))
        record = TrialRecord(trial=trial, state="complete", params=int(1000 * size), fraction=size)
        found.append(Confirmed(record, runs))
    return found


def world(seed: int, *fronts: Sequence[tuple[float, float]]) -> tuple[TaskScores, list]:
    rng = np.random.default_rng(seed)
    hard = HARD * rng.normal(size=IMAGES)
    dense = answer(rng, DENSE_ABILITY, hard)
    return dense, [confirm(rng, hard, points) for points in fronts]


def test_the_area_is_the_hypervolume_of_the_means() -> None:
    dense, (points,) = world(0, SPACED)
    means = [
        (one.record.fraction or 0, np.mean([retention(s, dense).value for s in one.scores]))
        for one in points
    ]
    found = area(points, dense)
    assert found is not None
    assert found.mean == pytest.approx(hypervolume(means))
    assert found.low < found.mean < found.high
    assert area([], dense) is None


def test_weights_of_one_and_minus_one_are_the_known_intervals() -> None:
    dense, (points,) = world(1, SPACED)
    a, b = points[1].scores, points[3].scores
    alone, known = weighted_sum([a], [1.0], dense), bootstrap(a, dense)
    assert (alone.mean, alone.low, alone.high) == (known.mean, known.low, known.high)
    both, paired = weighted_sum([a, b], [1.0, -1.0], dense), paired_difference(a, b, dense)
    assert (both.mean, both.low, both.high) == (paired.mean, paired.low, paired.high)
    doubled = weighted_sum([a], [2.0], dense)
    assert doubled.high - doubled.mean == pytest.approx(2 * (known.high - known.mean))
    prior = scatter(points, dense)
    with_prior = weighted_sum([a], [0.5], dense, prior=prior)
    known = bootstrap(a, dense, prior=prior)
    assert with_prior.mean - with_prior.low == pytest.approx(0.5 * (known.mean - known.low))


@pytest.mark.parametrize("points", [SPACED, NEAR_TIES], ids=["spaced", "near ties"])
def test_the_interval_covers_the_true_area(points: list[tuple[float, float]]) -> None:
    true = hypervolume([(size, truth(ability)) for size, ability in points])
    held, worlds = 0, 200
    for i in range(worlds):
        dense, (found,) = world(i, points)
        interval = total(stairs(found, dense), dense, scatter(found, dense))
        assert interval is not None
        held += interval.low <= true <= interval.high
    # 200 worlds: the standard error of a coverage of 0.95 is 0.015.
    assert 0.91 <= held / worlds <= 1.0


def test_the_difference_of_two_areas_covers_and_is_narrower_paired() -> None:
    better = [(size, ability + 0.15) for size, ability in SPACED]
    true = hypervolume([(s, truth(a)) for s, a in better])
    true -= hypervolume([(s, truth(a)) for s, a in SPACED])
    held, worlds, narrower = 0, 150, []
    for i in range(worlds):
        dense, (a, b) = world(1000 + i, better, SPACED)
        prior = scatter([*a, *b], dense)
        gap = difference(stairs(a, dense), stairs(b, dense), dense, prior)
        one, other = area(a, dense, prior=prior), area(b, dense, prior=prior)
        assert gap is not None
        assert one is not None
        assert other is not None
        assert gap.mean == pytest.approx(one.mean - other.mean)
        held += gap.low <= true <= gap.high
        narrower.append((gap.high - gap.low) / np.hypot(one.high - one.low, other.high - other.low))
    assert 0.9 <= held / worlds <= 1.0
    assert np.mean(narrower) < 0.9


def test_runs_that_two_fronts_share_cancel() -> None:
    dense, (points,) = world(3, SPACED)
    mine, again = stairs(points, dense), stairs(list(points), dense)
    assert difference(mine, again, dense) is None
    # All but one step is shared: what is left is that step's alone.
    changed = [*mine[:-1], (mine[-1][0], mine[-1][1] / 2)]
    left = difference(mine, changed, dense)
    own = bootstrap(mine[-1][0].scores, dense)
    assert left is not None
    assert left.mean == pytest.approx(own.mean * mine[-1][1] / 2)
    assert left.high - left.mean == pytest.approx((own.high - own.mean) * mine[-1][1] / 2)
