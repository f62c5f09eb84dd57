"""Three objectives: front, ranks and volume of (size, latency, retention)."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna._hypervolume import compute_hypervolume

from autoprune.search.fidelity.halving import Arrival, Halving, order
from autoprune.search.fronts.front import contributions, hypervolume, nondominated, ranks, steps
from autoprune.search.study import SearchStudy
from autoprune.tracking.records.costs import costs_in, point_of
from autoprune.tracking.records.trial import TrialRecord

REFERENCE = np.array([1.0, 1.0, 0.0])


def volume(losses: np.ndarray) -> float:
    """Optuna's; it refuses points beyond the reference, which add nothing."""
    inside = losses[(losses <= REFERENCE).all(axis=1)]
    return float(compute_hypervolume(inside, REFERENCE)) if len(inside) else 0.0


def drawn(seed: int, count: int) -> list[tuple[float, ...]]:
    rng = np.random.default_rng(seed)
    points = rng.uniform([0.1, 0.1, -0.1], [1.1, 1.1, 1.0], size=(count, 3))
    # Equal costs and equal points are among them.
    rounded = np.round(points, 1 if seed % 2 else 3)
    return [tuple(map(float, p)) for p in rounded]


@pytest.mark.parametrize("seed", range(12))
def test_volume_is_optunas(seed: int) -> None:
    points = drawn(seed, 3 + 3 * seed)
    losses = np.array([(s, t, -r) for s, t, r in points])
    theirs = volume(losses)
    assert hypervolume(points) == pytest.approx(theirs, abs=1e-12)
    gains = contributions(points)
    for i in range(len(points)):
        without = volume(np.delete(losses, i, axis=0))
        assert gains[i] == pytest.approx(theirs - without, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_front_and_ranks_are_optunas(seed: int) -> None:
    points = drawn(seed, 25)
    study = optuna.create_study(directions=["minimize", "minimize", "maximize"])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=list(point)))
    best = {tuple(trial.values) for trial in study.best_trials}
    front = nondominated(points)
    assert {points[i] for i in front} == best
    assert len(front) == len(best)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
    found = ranks(points)
    assert {points[i] for i, rank in enumerate(found) if rank == 0} == best


def test_steps_bear_the_volume() -> None:
    points = drawn(3, 12)
    borne = steps(points)
    assert sum(area * points[i][-1] for i, area in borne.items()) == pytest.approx(
        hypervolume(points)
    )
    # The fast one bears what only it reaches.
    assert steps([(0.2, 0.8, 0.5), (0.8, 0.2, 0.5)]) == pytest.approx({0: 0.16, 1: 0.12})


def test_where_latency_is_equal_it_is_the_plane() -> None:
    flat = [(0.2, 0.3), (0.5, 0.7), (0.6, 0.6)]
    lifted = [(size, 0.5, value) for size, value in flat]
    assert nondominated(lifted) == nondominated(flat)
    assert hypervolume(lifted) == pytest.approx(0.5 * hypervolume(flat))


def test_halving_keeps_the_fast_ones() -> None:
    fast = Arrival(0, 0.6, 0.5, latency=0.2)
    slow = Arrival(1, 0.6, 0.5, latency=0.9)
    small = Arrival(2, 0.3, 0.5, latency=0.9)
    assert order([slow, fast, small])[-1] == 1
    halving = Halving(exempt_share=0.0, minimum=3)
    for arrival in (fast, small):
        assert not halving.judge(1, arrival).stop
    assert halving.judge(1, slow).stop


def test_the_study_has_three_directions() -> None:
    domain = {"a": optuna.distributions.FloatDistribution(0, 1)}
    storage = optuna.storages.InMemoryStorage()
    study = SearchStudy(storage, "s", domain, "random", 0, 4, "memory+latency")
    for number in range(2):
        study.ask(number)
        study.complete(number, 0.5 - number / 10, 0.7, {}, latency=0.4)
    values = [trial.values for trial in study.trials()]
    assert values == [[0.5, 0.4, 0.7], [0.4, 0.4, 0.7]]


def test_costs_of_a_record() -> None:
    record = TrialRecord(
        trial=1, state="complete", fraction=0.5, memory_fraction=0.6, latency_fraction=0.7
    )
    assert costs_in(record, "params") == (0.5,)
    assert costs_in(record, "memory") == (0.6,)
    assert costs_in(record, "memory+latency") == (0.6, 0.7)
    assert costs_in(record, "bytes+latency") is None
    assert point_of(record, "bytes+latency") == (1.0, 1.0, 0.0)
