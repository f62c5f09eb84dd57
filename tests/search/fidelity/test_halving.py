from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.fidelity.correlation import Unstopped
from autoprune.search.fidelity.halving import Arrival, Halving, order


def arrivals(*points: tuple[float, float]) -> list[Arrival]:
    return [Arrival(i, size, value, "width") for i, (size, value) in enumerate(points)]


# name, points as (size, value), expected numbers from best to worst
ORDERS = {
    "dominated last": ([(0.5, 0.9), (0.5, 0.5), (0.6, 0.4)], [0, 1, 2]),
    "whole front before the next": ([(0.5, 0.5), (0.4, 0.4), (0.6, 0.3), (0.3, 0.3)], None),
    "equal points share a rank": ([(0.5, 0.5), (0.5, 0.5), (0.6, 0.1)], [0, 1, 2]),
    "more hypervolume first": ([(0.40, 0.50), (0.41, 0.51), (0.60, 0.90)], [2, 0, 1]),
    "one alone": ([(0.5, -3.0)], [0]),
    "negative values, as a proxy has": ([(0.5, -2.0), (0.5, -1.0)], [1, 0]),
    "none": ([], []),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order(name: str) -> None:
    points, expected = ORDERS[name]
    found = order(arrivals(*points))
    if expected is None:
        assert found[-1] == 2  # the only one that is dominated
    else:
        assert found == expected


def test_what_breaks_the_budget_comes_last_by_how_much() -> None:
    broken = [
        Arrival(0, 0.9, 1.0, violation=0.2),
        Arrival(1, 0.8, 1.0, violation=0.1),
        Arrival(2, 0.5, 0.1),
    ]
    assert order(broken) == [2, 1, 0]


def run(halving: Halving, rung: int, values: list[float], axis: str = "width") -> list[bool]:
    start = len(halving.arrivals.get(rung, {}))
    return [
        halving.judge(rung, Arrival(start + i, 0.5, value, axis)).stop
        for i, value in enumerate(values)
    ]


def test_nothing_stops_before_there_is_something_to_compare_with() -> None:
    halving = Halving(exempt_share=0.0, minimum=5)
    assert run(halving, 1, [5, 4, 3, 2]) == [False] * 4
    assert run(halving, 1, [1]) == [True]


def test_equal_arrivals_share_a_place() -> None:
    halving = Halving(exempt_share=0.0)
    # Recipes of one plan, as a walk over a grid has them: alike before they are recovered.
    assert run(halving, 0, [0.5] * 12) == [False] * 12
    assert halving.judge(0, Arrival(20, 0.5, 0.4, "width")).stop
    twins = [Arrival(0, 0.40, 0.50), Arrival(1, 0.40, 0.50), Arrival(2, 0.41, 0.51)]
    assert order([*twins, Arrival(3, 0.60, 0.90)]) == [3, 0, 1, 2]


def test_first_rung_stops_the_bottom_quarter_and_later_rungs_the_bottom_half() -> None:
    first, later = Halving(exempt_share=0.0), Halving(exempt_share=0.0)
    descending = list(range(40, 0, -1))
    run(first, 0, [*range(40)])
    run(later, 1, [*range(40)])
    assert sum(first.judge(0, Arrival(100 + v, 0.5, v - 0.5, "width")).stop for v in descending) < (
        sum(later.judge(1, Arrival(100 + v, 0.5, v - 0.5, "width")).stop for v in descending)
    )
    assert first.judge(0, Arrival(999, 0.5, 15.0, "width")).stop is False
    assert first.judge(0, Arrival(998, 0.5, 0.1, "width")).stop is True
    assert later.judge(1, Arrival(997, 0.5, 12.0, "width")).stop is True


def test_the_first_rung_compares_within_an_axis_only() -> None:
    halving = Halving(exempt_share=0.0)
    run(halving, 0, [0.9] * 10, axis="width")
    verdict = halving.judge(0, Arrival(50, 0.5, 0.1, "depth"))
    assert not verdict.stop
    assert verdict.among == 1
    run(halving, 1, [0.9] * 10, axis="width")
    assert halving.judge(1, Arrival(50, 0.5, 0.1, "depth")).stop


def test_baselines_and_a_seeded_share_are_exempt() -> None:
    halving = Halving(seed=3)
    chosen = [n for n in range(2000) if halving.exempt(n)]
    assert len(chosen) / 2000 == pytest.approx(0.15)
    assert chosen != [n for n in range(2000) if Halving(seed=4).exempt(n)]
    run(halving, 1, [1.0] * 20)
    assert not halving.judge(1, Arrival(5000, 0.9, 0.0), baseline=True).stop
    assert not halving.judge(1, Arrival(chosen[0], 0.9, 0.0)).stop
    assert halving.judge(1, Arrival(chosen[0], 0.9, 0.0)).exempt


@pytest.mark.parametrize("first", [0, 3, 4])
def test_every_stretch_behind_the_baselines_has_one_exempt_trial(first: int) -> None:
    for seed in range(30):
        halving = Halving(seed=seed, first=first)
        assert not any(halving.exempt(n) for n in range(first))
        start = first
        for length in (7, 7, 6) * 4:
            assert sum(halving.exempt(n) for n in range(start, start + length)) == 1
            start += length
    assert not any(Halving(exempt_share=0.0).exempt(n) for n in range(50))
    assert all(Halving(exempt_share=1.0).exempt(n) for n in range(50))


def teach(halving: Halving, agree: float, count: int = 300) -> None:
    dice = np.random.default_rng(0)
    for number in range(count):
        own, other = dice.normal(), dice.normal()
        end = agree * own + (1 - agree) * other
        halving.end(Unstopped(1000 + number, 0.5, {0: own, 1: own}, end))


def test_where_a_rung_ranks_badly_more_is_promoted() -> None:
    """Of the same arrivals, fewer are stopped the less the rung has been seen to tell."""
    stopped, shares = [], []
    for agree in (None, 1.0, 0.3, 0.0):
        halving = Halving(exempt_share=0.0)
        if agree is not None:
            teach(halving, agree)
        run(halving, 1, [*range(40)])
        shares.append((halving.share(0), halving.share(1)))
        late = [halving.judge(1, Arrival(100 + v, 0.5, v + 0.5, "width")).stop for v in range(40)]
        stopped.append(sum(late))
    assert shares[0] == shares[1] == (0.25, 0.5)
    assert stopped[0] == stopped[1] > stopped[2] > stopped[3] > 0
    assert shares[3][1] < 0.2


def test_too_few_ends_change_nothing() -> None:
    halving = Halving()
    teach(halving, 0.0, count=5)
    assert (halving.share(0), halving.share(1)) == (0.25, 0.5)
    assert halving.correlation(1).value is None


def test_a_trial_that_arrives_again_counts_once() -> None:
    halving = Halving(exempt_share=0.0)
    for _ in range(3):
        assert halving.judge(1, Arrival(7, 0.5, 0.5)).among == 1
