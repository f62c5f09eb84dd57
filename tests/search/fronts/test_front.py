from __future__ import annotations

import pytest

from autoprune.search.fronts.front import contributions, hypervolume, nondominated, ranks, steps

POINTS = [(0.5, 0.9), (0.4, 0.8), (0.5, 0.7), (0.6, 0.9), (0.3, 0.2)]


def test_front_is_sorted_by_size_and_leaves_out_what_is_dominated() -> None:
    assert nondominated(POINTS) == [4, 1, 0]


def test_equal_points_are_listed_once_and_share_a_rank() -> None:
    assert nondominated([(0.5, 0.5), (0.5, 0.5)]) == [0]
    assert ranks([(0.5, 0.5), (0.5, 0.5), (0.6, 0.5)]) == [0, 0, 1]


def test_ranks_peel_the_fronts() -> None:
    assert ranks(POINTS) == [0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0.0),
        ([(0.5, 1.0)], 0.5),
        ([(0.5, 1.0), (0.25, 0.5)], 0.5 + 0.125),
        ([(0.5, 1.0), (0.5, 0.9)], 0.5),
        ([(1.2, 1.0), (0.5, -0.1)], 0.0),
        ([(0.0, 1.0)], 1.0),
    ],
)
def test_hypervolume(points: list[tuple[float, float]], area: float) -> None:
    assert hypervolume(points) == pytest.approx(area)


def test_contributions_are_what_is_lost() -> None:
    assert contributions([(0.5, 1.0), (0.25, 0.5), (0.6, 0.9)]) == pytest.approx([0.09, 0.125, 0.0])


def test_the_steps_are_those_of_the_staircase() -> None:
    points = [(0.6, 0.9), (0.4, 0.5), (0.5, 0.4), (1.2, 1.0), (0.2, -0.1)]
    assert steps(points) == pytest.approx({1: 0.2, 0: 0.4})
    assert hypervolume(points) == pytest.approx(0.2 * 0.5 + 0.4 * 0.9)
    assert steps([]) == {}
