"""Floors: what has to stay is a constraint of the search, and holds its front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.confirmed import finished_search
from support.toy_campaign import campaign, fields

from autoprune.cli.main import run
from autoprune.errors import AutoPruneError
from autoprune.evaluation.floors import (
    Floor,
    check_floors,
    floors_of,
    groups_of,
    kept_of,
    missed,
    read_floors,
)
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.search.fidelity.halving import order
from autoprune.search.fidelity.rungs import arrival_of, with_rung
from autoprune.search.fronts.confirm import Confirmed, front_points, members
from autoprune.search.study import FLOORS
from autoprune.tracking.records.trial import TrialRecord

SPECS = resolve_tasks(["digits_read", "digits_sum", "digits_order"])


def scored(**values: float) -> TaskScores:
    names = np.array(["a", "b"])
    chances = {"digits_read": 0.1, "digits_sum": 0.25, "digits_order": 0.14}
    return TaskScores(
        tuple(
            TaskScore(n, "exact_match", chances[n], v, names, names, np.array([v, v]))
            for n, v in values.items()
        )
    )


DENSE = scored(digits_read=1.0, digits_sum=0.75, digits_order=0.2)


def test_a_floor_is_a_share_above_chance() -> None:
    half = scored(digits_read=0.55, digits_sum=0.5, digits_order=0.2)
    assert kept_of(["digits_read"], half, DENSE) == pytest.approx(0.5)
    # A group is taken together, as retention is; what the dense model cannot do says nothing.
    assert kept_of(["digits_read", "digits_sum"], half, DENSE) == pytest.approx(0.7 / 1.4)
    assert kept_of(["digits_sum", "digits_order"], half, DENSE) == pytest.approx(0.5)
    assert kept_of(["digits_order"], half, DENSE) is None
    floors = read_floors(["digits_read=0.9", "reasoning=40%"], SPECS)
    assert floors[1] == Floor("reasoning", ("digits_sum", "digits_order"), 0.4)
    assert missed(floors, half, DENSE) == {"digits_read": pytest.approx(0.4)}
    assert missed(floors, DENSE, DENSE) == {}
    assert groups_of(SPECS) == {
        "reading": ("digits_read",),
        "reasoning": ("digits_sum", "digits_order"),
    }


@pytest.mark.parametrize(
    ("least", "short"), [(0.88, {}), (0.9, {}), (0.92, {"digits_sum": pytest.approx(0.02)})]
)
def test_a_floor_is_missed_by_what_lacks(least: float, short: dict[str, float]) -> None:
    dense, small = scored(digits_sum=0.65), scored(digits_sum=0.61)
    kept = kept_of(["digits_sum"], small, dense)
    assert kept is not None
    assert kept < 0.9  # by rounding alone: it is 0.36 of 0.4
    assert missed([Floor("digits_sum", ("digits_sum",), least)], small, dense) == short


IMAGES = np.array([f"i{number}" for number in range(200)])


def right(read: float, total: float, seed: int = 0) -> TaskScores:
    """Answers of which such shares are right, on images that are drawn."""
    rng = np.random.default_rng(seed)
    found = []
    for name, share in (("digits_read", read), ("digits_sum", total)):
        values = np.zeros(len(IMAGES))
        values[rng.permutation(len(IMAGES))[: round(share * len(IMAGES))]] = 1.0
        found.append(TaskScore(name, "exact_match", 0.0, share, IMAGES, IMAGES, values))
    return TaskScores(tuple(found))


def confirmed(trial: int, size: float, read: float, total: float) -> Confirmed:
    record = TrialRecord(
        trial=trial,
        state="complete",
        fidelity=1.0,
        params=int(1000 * size),
        fraction=size,
        retention=0.5,
    )
    return Confirmed(record, tuple(right(read, total, 7 * trial + s) for s in range(2)))


def test_a_point_below_a_floor_takes_no_others_place() -> None:
    # The smallest keeps the most in all, and too little of what is read.
    points = front_points(
        [confirmed(0, 0.3, 0.6, 1.0), confirmed(1, 0.4, 0.9, 0.3), confirmed(2, 0.5, 0.7, 0.5)],
        right(1.0, 1.0),
        floors=[Floor("digits_read", ("digits_read",), 0.85)],
    )
    below, held, other = points
    assert [point.trial for point in points] == [0, 1, 2]
    assert below.missed == {"digits_read": pytest.approx(0.25)}
    assert other.missed == {"digits_read": pytest.approx(0.15)}
    assert held.missed == {}
    assert held.retention.mean < below.retention.mean
    assert (held.dominated, held.behind, held.tied_with, held.tied_smaller) == (
        False,
        False,
        (),
        (),
    )
    assert other.tied_with == (1,)  # the data do not tell it from the one that meets the floor
    free = front_points([confirmed(0, 0.3, 0.6, 1.0), confirmed(1, 0.4, 0.9, 0.3)], right(1.0, 1.0))
    assert [point.dominated for point in free] == [False, True]


def test_a_task_comes_before_a_capability_of_its_name() -> None:
    groups = {"digits_order": ("digits_read",), "reading": ("digits_read",)}
    again = floors_of({"digits_order": 0.5, "reading": 0.9}, groups, DENSE)
    assert [floor.tasks for floor in again] == [("digits_order",), ("digits_read",)]


@pytest.mark.parametrize(
    ("floor", "line"),
    [
        ("digits_reed=0.9", r"no such task or capability.*did you mean 'digits_read'"),
        ("hallucination=0.9", "no such task or capability"),
        ("digits_read", "is not NAME=VALUE"),
        ("digits_read=1.2", "is no share in"),
        ("digits_read=0", "is no share in"),
        ("digits_read=most", "is no share in"),
    ],
)
def test_floors_that_are_refused(floor: str, line: str) -> None:
    with pytest.raises(AutoPruneError, match=line):
        read_floors([floor], SPECS)


def test_a_floor_under_chance_is_refused() -> None:
    with pytest.raises(AutoPruneError, match="at chance on digits_order"):
        check_floors(read_floors(["digits_order=0.5"], SPECS), DENSE)
    check_floors(read_floors(["reasoning=0.5"], SPECS), DENSE)


def test_the_study_is_told_and_the_front_keeps_to_it(tmp_path: Path) -> None:
    c = campaign(tmp_path, floors=("digits_read=0.9",), trials=10)
    below: dict[int, float] = {}
    while (job := c.next_job()) is not None:
        # Narrow ones are below the floor.
        short = max(0.0, 0.5 - float(job.knobs["size"]))
        below[job.number] = short
        going = True
        for rung in range(3):
            found = fields(job, rung)
            if rung:
                found["missed"] = {"digits_read": short} if short else {}
            if not c.arrived(job.number, found):
                c.stopped(job.number)
                going = False
                break
        if going:
            c.finished(job.number)
    front = c.front()
    assert front
    assert all(not below[record.trial] for record in front)
    complete = [t for t in c.study.trials() if t.state.name == "COMPLETE"]
    assert len(complete) > 4
    for trial in complete:
        assert trial.constraints[FLOORS] == pytest.approx(below[trial.user_attrs["trial"]])
    best = {trial.user_attrs["trial"] for trial in c.study._study.best_trials}
    assert best
    assert all(not below[number] for number in best)
    # A search that goes on takes up where it was, and judges as it did at every rung.
    again = campaign(tmp_path, floors=("digits_read=0.9",), trials=10)
    assert [r.trial for r in again.front()] == [r.trial for r in front]
    for rung, arrivals in c.halving.arrivals.items():
        assert again.halving.arrivals[rung] == arrivals


def test_halving_takes_what_is_below_off() -> None:
    def at(trial: int, size: float, retained: float, **short: float) -> Any:
        record = TrialRecord(trial=trial, state="running", fraction=size)
        for rung, lacks in enumerate(({}, short)):
            measured = {"rung": rung, "retention": retained, "proxy_kl": 0.1, "missed": lacks}
            record = with_rung(record, measured)
        return [arrival_of(record, rung, "params") for rung in (0, 1)]

    first, found = zip(
        at(0, 0.5, 0.9, digits_read=0.2),
        at(1, 0.5, 0.6),
        at(2, 0.5, 0.95, digits_read=0.1),
        at(3, 0.3, 0.5, digits_read=0.4),
        strict=True,
    )
    assert [arrival.value for arrival in found] == pytest.approx([0.7, 0.6, 0.85, 0.1])
    assert {arrival.value for arrival in first} == {-0.1}
    assert not any(arrival.violation for arrival in found)
    # Half recovered the small one is far below, and is not ranked behind all that are larger.
    assert set(order(found)[:2]) == {2, 3}
    assert order(found)[2:] == [0, 1]


def test_what_is_confirmed_meets_the_floors_or_comes_nearest() -> None:
    def full(trial: int, size: float, retained: float, **short: float) -> TrialRecord:
        return TrialRecord(
            trial=trial,
            state="complete",
            fidelity=1.0,
            params=int(1000 * size),
            fraction=size,
            retention=retained,
            missed=short,
        )

    some = [full(0, 0.4, 0.9, a=0.3), full(1, 0.5, 0.8), full(2, 0.3, 0.7, a=0.01)]
    assert [record.trial for record in members(some)] == [2, 1]
    none = [full(0, 0.4, 0.9, a=0.3), full(1, 0.5, 0.8, a=0.2), full(2, 0.3, 0.7, a=0.5)]
    assert [record.trial for record in members(none)] == [1]


def test_a_front_keeps_to_its_floors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = {0.3: 0.6, 0.4: 0.8, 0.5: 0.93}
    store = finished_search(tmp_path, "held", found, floors=("digits_read=0.75",))
    summary = store.summary()
    assert summary is not None
    assert [point.trial for point in summary.front] == [1, 2]
    assert [point.trial for point in summary.below] == [0]
    assert summary.below[0].missed["digits_read"] == pytest.approx(0.11, abs=0.01)
    assert not any(set(point.tied_with) & {0} for point in summary.front)
    free = finished_search(tmp_path, "free", found).summary()
    assert free is not None
    assert summary.hypervolume is not None
    assert free.hypervolume is not None
    assert summary.hypervolume < free.hypervolume
    assert set(summary.front[0].capabilities) == {"reading", "reasoning"}
    assert run(["front", "held", "--home", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "below" in said
    assert "Every point of the front keeps the floors (digits_read 0.75)." in said
    assert "reasoning" in said
    assert run(["front", "held", "--json", "--home", str(tmp_path)]) == 0
    front = json.loads(capfd.readouterr().out)
    assert [point["trial"] for point in front["below"]] == [0]


def test_a_search_that_meets_no_floor_says_what_comes_nearest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = finished_search(tmp_path, "none", {0.3: 0.5, 0.4: 0.7}, floors=("reading=0.95",))
    summary = store.summary()
    assert summary is not None
    assert summary.front == ()
    assert summary.nearest is not None
    assert summary.nearest.trial == 1
    assert run(["front", "none", "--home", str(tmp_path)]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "No point keeps the floors (reading 0.95); trial 1 (40.0%) comes nearest" in said
    assert "no point meets the floors" in said
