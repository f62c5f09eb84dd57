from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.search.fronts.confirm import (
    NOISE,
    Confirmed,
    front_points,
    is_full,
    members,
    shrinkage,
)
from autoprune.tracking.records.trial import TrialRecord

IMAGES = 400


def record(trial: int, fraction: float, retained: float, **changes: object) -> TrialRecord:
    values = {
        "trial": trial,
        "state": "complete",
        "fidelity": 1.0,
        "params": int(1000 * fraction),
        "fraction": fraction,
        "retention": retained,
        "axis": "width",
        "recovery": "sft/full",
        "data_fraction": 0.05,
        "backbone_removed": 0.5,
    }
    return TrialRecord.model_validate({**values, **changes})


def answers(accuracy: float, seed: int) -> TaskScores:
    rng = np.random.default_rng(seed)
    names = np.array([f"i{i}" for i in range(IMAGES)])
    values = (rng.random(IMAGES) < accuracy).astype(np.float64)
    return TaskScores(
        (TaskScore("read", "exact_match", 0.1, float(values.mean()), names, names, values),)
    )


def confirmed(trial: int, fraction: float, accuracy: float, searched: float) -> Confirmed:
    seeds = tuple(answers(accuracy, 10 * trial + s) for s in range(3))
    return Confirmed(record(trial, fraction, searched), seeds)


DENSE = answers(0.97, 999)


@pytest.mark.parametrize(
    "changes",
    [{"state": "stopped"}, {"state": "failed"}, {"fidelity": 0.33}, {"retention": None}],
    ids=str,
)
def test_a_partial_trial_is_never_confirmed(changes: dict[str, object]) -> None:
    best = record(0, 0.4, 0.99, **changes)
    assert not is_full(best)
    assert [r.trial for r in members([best, record(1, 0.5, 0.8)])] == [1]


def test_front_and_members_are_by_bytes_where_those_are_the_objective() -> None:
    def stored(trial: int, fraction: float, share: float, accuracy: float) -> Confirmed:
        one = confirmed(trial, fraction, accuracy, accuracy)
        changes = {"bytes": int(4000 * share), "bytes_fraction": share, "precision": "int8"}
        return replace(one, record=one.record.model_copy(update=changes))

    # More parameters in fewer bytes, and more ability: the first is dominated in bytes only.
    both = [stored(0, 0.4, 0.4, 0.80), stored(1, 0.6, 0.3, 0.95)]
    records = [one.record for one in both]
    assert [r.trial for r in members(records)] == [0, 1]
    assert [r.trial for r in members(records, objective="bytes")] == [1]
    by_params = front_points(both, DENSE)
    assert [(p.trial, p.dominated) for p in by_params] == [(0, False), (1, False)]
    by_bytes = front_points(both, DENSE, objective="bytes")
    assert [(p.trial, p.dominated) for p in by_bytes] == [(1, False), (0, True)]
    first = by_bytes[0]
    assert (first.bytes, first.bytes_fraction, first.precision) == (1200, 0.3, "int8")
    # A record of an earlier version has no bytes, and so no place on such a front.
    assert not is_full(record(2, 0.4, 0.9), "bytes")


def test_members_are_the_front_and_what_lies_just_below() -> None:
    records = [
        record(0, 0.4, 0.70),
        record(1, 0.5, 0.80),
        record(2, 0.5, 0.80 - NOISE / 2),
        record(3, 0.5, 0.80 - 2 * NOISE),
        record(4, 0.6, 0.90),
    ]
    assert [r.trial for r in members(records)] == [0, 1, 2, 4]


def test_a_long_front_is_thinned_and_keeps_its_ends() -> None:
    records = [record(i, 0.3 + 0.01 * i, 0.5 + 0.01 * i) for i in range(20)]
    picked = [r.trial for r in members(records, limit=5)]
    assert len(picked) == 5
    assert picked[0] == 0
    assert picked[-1] == 19


def test_points_are_sorted_marked_and_tied() -> None:
    points = front_points(
        [
            confirmed(0, 0.6, 0.90, 0.95),
            confirmed(1, 0.5, 0.70, 0.75),
            confirmed(2, 0.55, 0.40, 0.45),
            confirmed(3, 0.65, 0.905, 0.95),
        ],
        DENSE,
    )
    assert [p.trial for p in points] == [1, 2, 0, 3]
    by_trial = {p.trial: p for p in points}
    assert by_trial[2].dominated
    assert not by_trial[0].dominated
    assert 3 in by_trial[0].tied_with
    assert 1 not in by_trial[0].tied_with
    for point in points:
        assert point.retention.low <= point.retention.mean <= point.retention.high
        assert point.retention.seeds == 3


def test_shrinkage_is_search_minus_confirmed() -> None:
    group = [confirmed(0, 0.6, 0.9, 0.95)]
    points = front_points(group, DENSE)
    found = shrinkage(group, points)
    assert found is not None
    assert found.mean == pytest.approx(0.95 - points[0].retention.mean)
    assert (found.low, found.high) == (None, None)  # nothing to say from one point
    assert shrinkage([], points) is None


def differing(trial: int, fraction: float, wrong: int, scatter: int = 0) -> Confirmed:
    """Three runs that miss the first ``wrong`` questions, ``scatter`` more or fewer by seed."""
    names = np.array([f"i{i}" for i in range(IMAGES)])
    runs = []
    for shift in (-scatter, 0, scatter):
        values = (np.arange(IMAGES) >= wrong + shift).astype(np.float64)
        score = TaskScore("read", "exact_match", 0.1, float(values.mean()), names, names, values)
        runs.append(TaskScores((score,)))
    return Confirmed(record(trial, fraction, 0.9), tuple(runs))


def test_only_a_difference_that_leaves_zero_out_dominates() -> None:
    """20 is a hair worse than 10, which is smaller; 30 is far worse."""
    points = front_points(
        [differing(10, 0.5, 60, 4), differing(20, 0.55, 62, 4), differing(30, 0.6, 160, 4)], DENSE
    )
    first, hair, far = points
    assert (first.dominated, first.behind, first.tied_smaller) == (False, False, ())
    assert (hair.dominated, hair.behind, hair.tied_smaller) == (False, True, (10,))
    assert (far.dominated, far.behind, far.tied_with) == (True, False, ())
    assert hair.tie == "tied with 10, which is smaller"
    assert first.tie == "tied with 20"
    assert far.tie == ""


def test_a_better_mean_that_is_not_told_apart_names_the_smaller_point() -> None:
    low, high = front_points([differing(1, 0.5, 62, 4), differing(2, 0.55, 60, 4)], DENSE)
    assert not high.behind
    assert high.tie == "tied with 1, which is smaller"
    assert not low.behind


def test_at_one_size_the_lower_mean_is_behind_and_none_is_smaller() -> None:
    best, other = front_points([differing(1, 0.5, 62, 4), differing(2, 0.5, 60, 4)], DENSE)
    assert (best.trial, best.behind) == (2, False)
    assert (other.trial, other.behind, other.tied_smaller) == (1, True, ())


@pytest.mark.parametrize("trials", [(3,), (3, 5), (3, 5, 8)])
def test_ties_in_words(trials: tuple[int, ...]) -> None:
    point = front_points([confirmed(0, 0.6, 0.9, 0.9)], DENSE)[0]
    said = point.model_copy(update={"tied_with": (*trials, 9), "tied_smaller": trials}).tie
    assert said.startswith(f"tied with {', '.join(map(str, trials[:-1]))}"[:12])
    assert said.endswith("; tied with 9")
    assert ("which is smaller" in said) == (len(trials) == 1)
    assert ("which are smaller" in said) == (len(trials) > 1)


def test_shrinkage_has_an_interval_over_points() -> None:
    group = [confirmed(i, 0.4 + 0.05 * i, 0.9, 0.95 + 0.01 * (-1) ** i) for i in range(6)]
    points = front_points(group, DENSE)
    found = shrinkage(group, points)
    means = {p.trial: p.retention.mean for p in points}
    drops = [(one.record.retention or 0) - means[one.record.trial] for one in group]
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(np.mean(drops))
    assert found.high - found.mean == pytest.approx(
        2.5706 * np.std(drops, ddof=1) / 6**0.5, rel=1e-3
    )
    assert found.low < found.mean
