"""Refinement: whose neighbourhood, which neighbour, and that a refined trial can be made again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pruning.test_allocation import make_scores, make_spec
from support.toy_campaign import campaign, fields, run_trial
from support.trial_bench import open_bench

from autoprune.cost.bytes import stored_bytes
from autoprune.errors import AutoPruneError
from autoprune.pruning.allocation import allocate
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.layout import Layout, layout_of, plan_of
from autoprune.search.campaign import Campaign
from autoprune.search.candidates.decode import DecodeContext
from autoprune.search.candidates.neighbours import neighbours
from autoprune.search.finish import Rerun, rerun
from autoprune.search.sampling.refine import choose_parent, climb, probes_of_climb, refined_trials
from autoprune.search.trial.bench import TrialBench, axis_of
from autoprune.search.work import Refinement, TrialJob
from autoprune.tracking.records.trial import TrialRecord

LAYOUT = Layout((4, 4), (4, 4), (8, 8))


def record(trial: int, **values: Any) -> TrialRecord:
    return TrialRecord(trial=trial, state="complete", **values)


# ---- whose neighbourhood

POINTS = [(0.4, 0.2), (0.5, 0.8), (0.6, 0.82)]


@pytest.mark.parametrize(
    ("children", "chosen"),
    [
        ([], 1),  # the largest contribution
        ([1], 0),
        ([1, 0], 2),
        ([1, 0, 2], 1),
        ([1, 0, 2, 1], 0),
    ],
)
def test_the_parent_has_fewest_children_then_contributes_most(
    children: list[int], chosen: int
) -> None:
    front = [record(n) for n in range(3)]
    born = [record(10 + n, origin="refine", parent=p) for n, p in enumerate(children)]
    found = choose_parent(front, POINTS, [*front, *born])
    assert found is not None
    assert found.trial == chosen


def test_a_parent_whose_children_fail_is_not_asked_again_and_an_empty_front_has_none() -> None:
    front = [record(n) for n in range(3)]
    failed = TrialRecord(trial=9, state="failed", origin="refine", parent=1)
    found = choose_parent(front, POINTS, [*front, failed])
    assert found is not None
    assert found.trial == 0
    assert choose_parent([], [], []) is None


# ---- which neighbour


def step(layout: Layout, seed: int, moves: int) -> Layout:
    """Move channels by up to ``moves`` from one layer to the other."""
    shift = int(np.random.default_rng(seed).integers(-moves, moves + 1))
    first = min(15, max(1, layout.channels[0] + shift))
    return Layout(layout.heads, layout.groups, (first, 16 - first))


def test_a_climb_goes_up_and_never_brings_the_parent_back() -> None:
    asked: list[Layout] = []

    def score(layout: Layout) -> float:
        asked.append(layout)
        return abs(layout.channels[0] - 12.0)

    found = [climb(LAYOUT, step, score, 0, number) for number in range(30)]
    assert all(f.layout != LAYOUT for f in found)
    assert np.mean([f.value for f in found]) < 3  # the start has 4, and one draw is as often worse
    assert all(f.start == 4 for f in found)
    assert len(asked) <= 30 * probes_of_climb()
    assert len({f.layout for f in found}) > 1
    assert climb(LAYOUT, step, score, 0, 7) == found[7]
    assert climb(LAYOUT, step, score, 1, 7) != found[7]


def test_a_climb_passes_by_what_has_no_figure_and_says_when_nothing_moves() -> None:
    found = climb(LAYOUT, step, lambda layout: math.nan, 0, 0)
    assert found.layout != LAYOUT
    worse = climb(LAYOUT, step, lambda layout: float(layout != LAYOUT), 0, 0)
    assert worse.layout != LAYOUT

    def stuck(layout: Layout, seed: int, moves: int) -> Layout:
        raise AutoPruneError("no move of 64")

    with pytest.raises(AutoPruneError, match="no move of 64"):
        climb(LAYOUT, stuck, lambda layout: 0.0, 0, 0)
    with pytest.raises(AutoPruneError, match="--refine 0"):
        climb(LAYOUT, lambda layout, seed, moves: LAYOUT, lambda layout: 0.0, 0, 0)


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_neighbours_in_bytes_are_never_larger(precision: str, stock: bool) -> None:
    spec = make_spec(8, 4, 1, 128, 64)
    scores = make_scores(spec)
    allocation = Allocation(stock=stock)
    plan = allocate(spec, scores, allocation, round(spec.total_params * 0.6), multiple=32)
    start = layout_of(plan)
    context = DecodeContext(
        spec=spec,
        importance=None,  # type: ignore[arg-type]
        min_params=0,
        max_params=spec.params_of(plan.shapes),
        train_samples=1,
        max_recovery_samples=1,
        stock=stock,
        spans={precision: (0, 1)},
    )
    wanted = stored_bytes(spec, start, precision)
    propose = neighbours(start, precision, context)
    sizes = []
    for seed in range(12):
        new = propose(start, seed, 1)
        sizes.append(stored_bytes(spec, new, precision))
        assert new != start
        assert spec.params_of(new.shapes) <= context.max_params
        made = plan_of(spec, scores, new)
        assert axis_of(spec, made) in ("width", "hybrid", "depth")
    assert max(sizes) <= wanted
    # Heads of all stock layers are a large step, as everywhere.
    assert np.mean(sizes) > (0.8 if stock else 0.95) * wanted


@pytest.mark.parametrize(
    ("layout", "axis"),
    [
        (Layout((4, 4), (4, 4), (8, 6)), "width"),
        (Layout((4, 0), (4, 0), (8, 0)), "depth"),
        (Layout((4, 0), (4, 0), (8, 8)), "depth"),
        (Layout((4, 0), (4, 0), (8, 7)), "hybrid"),
    ],
)
def test_the_axis_is_read_off_the_plan(layout: Layout, axis: str) -> None:
    spec = make_spec(2, 4, 1, 8)
    assert axis_of(spec, plan_of(spec, make_scores(spec), layout)) == axis


# ---- in a search


def play(c: Campaign) -> list[TrialJob]:
    jobs = []
    while (job := c.next_job()) is not None:
        jobs.append(job)
        run_trial(c, job)
        if job.refinement is not None and job.refinement.layout is None:
            found = Layout((job.number,), (job.number,), (1,)).to_dict()
            c.arrived(job.number, {"layout": found})
    return jobs


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 3), (0.5, 6), (0.75, 9)])
def test_the_last_share_of_the_trials_starts_from_the_front(
    tmp_path: Path, share: float, count: int
) -> None:
    assert refined_trials(12, share) == count
    c = campaign(tmp_path, refine=share, early_stopping=False)
    jobs = play(c)
    origins = [c.records[n].origin for n in range(12)]
    assert origins[:2] == ["uniform", "outside"]
    assert origins.count("refine") == count
    assert all(origin == "refine" for origin in origins[12 - count :])
    for job in jobs[12 - count :]:
        child = c.records[job.number]
        assert child.parent is not None
        assert child.baseline is None
        parent = c.records[child.parent]
        assert child.knobs == parent.knobs
        assert job.refinement is not None
        assert parent.state == "complete"
        assert job.refinement.plan == parent.plan == f"plan-{parent.trial}"
        if parent.origin == "refine":
            assert job.refinement.start == Layout.from_dict(parent.layout or {})
    told = {t.user_attrs["trial"] for t in c.study.trials()}
    assert not told & {job.number for job in jobs if job.refinement is not None}
    assert len(c.study.predictor.finished) == 12  # it may learn from all


def test_where_sampling_no_longer_pays_refinement_begins(tmp_path: Path) -> None:
    c = campaign(tmp_path, trials=400, refine=0.25, patience=1.0, workers=1)
    while (job := c.next_job()) is not None:
        for rung in range(3):
            slow = {**fields(job, rung), "stage_seconds": {"recover": 300.0}}
            if not c.arrived(job.number, slow):
                c.stopped(job.number)
                break
        else:
            c.finished(job.number)
    assert c.why().startswith("--patience 1")
    origins = [record.origin for record in c.records.values()]
    assert len(origins) < 200
    assert origins.count("refine") == refined_trials(len(origins), 0.25)
    assert set(origins[-origins.count("refine") :]) == {"refine"}


def test_without_a_front_the_sampler_is_asked(tmp_path: Path) -> None:
    c = campaign(tmp_path, refine=0.5)
    for _ in range(12):
        job = c.next_job()
        assert job is not None
        c.failed(job.number, "out of memory")
        if c.over():
            break
    assert {r.origin for r in c.records.values()} == {"uniform", "outside", "sampler"}


def test_the_last_part_of_the_time_is_refinement(tmp_path: Path) -> None:
    now = 0.0
    c = campaign(tmp_path, trials=500, refine=0.25, max_hours=1.0)
    c._clock = lambda: now
    c._began = 0.0
    for second in range(0, 3600, 100):
        now = float(second)
        job = c.next_job()
        assert job is not None
        run_trial(c, job)
        if second not in range(200):
            assert (job.refinement is not None) == (second >= 2700)
    now = 3600.0
    assert c.next_job() is None


@pytest.mark.parametrize("left", [0, 1])
def test_a_killed_refinement_goes_on(tmp_path: Path, left: int) -> None:
    whole = campaign(tmp_path / "whole", refine=0.5)
    play(whole)
    for _ in range(20):
        c = campaign(tmp_path / "cut", refine=0.5)
        job = c.next_job()
        if job is None:
            break
        run_trial(c, job, until=left)
        if c.records[job.number].state == "running" and job.refinement is not None:
            c.arrived(job.number, {"layout": Layout((3,), (3,), (1,)).to_dict(), "rung": left})
        # here the driver is killed
        again = campaign(tmp_path / "cut", refine=0.5)
        same = again.next_job()
        if c.records[job.number].state != "running":
            continue
        assert same is not None
        assert (same.number, same.knobs) == (job.number, job.knobs)
        if job.refinement is not None:
            found = Layout((3,), (3,), (1,))
            assert same.refinement == replace(job.refinement, layout=found)
        run_trial(again, same)
    ends = [[(r.state, r.origin, r.parent) for r in c.records.values()] for c in (again, whole)]
    assert ends[0] == ends[1]


def test_an_old_record_loads() -> None:
    values = record(3).model_dump(mode="json")
    del values["parent"], values["layout"]
    assert TrialRecord.model_validate(values) == record(3)


def test_a_job_travels_as_json() -> None:
    for job in (Refinement(), Refinement(LAYOUT), Refinement(LAYOUT, LAYOUT, "abc")):
        assert Refinement.from_dict(job.to_dict()) == job


# ---- on the embedded model


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> TrialBench:
    return open_bench(tmp_path_factory.mktemp("cache"))


def test_a_refined_trial_on_the_embedded_model(tools: TrialBench, tmp_path: Path) -> None:
    knobs = tools.work.space.complete({"size": 0.5, "axis": "hybrid"})
    spec = tools.work.context.spec
    parent = tools.candidate(knobs, 0)
    job = TrialJob(7, knobs, 0, Refinement())
    run = tools.start(job)
    child = run.run.candidate
    assert child.recipe == parent.recipe
    assert child.precision == parent.precision
    assert child.plan != parent.plan
    below = spec.params_of(parent.plan.shapes) - spec.params_of(child.plan.shapes)
    assert 0 <= below < spec.attention_group_params
    known = run.describe()
    layout = Layout.from_dict(known["layout"])
    assert layout == layout_of(child.plan)
    first, second = run.rung(0.0, evaluate=False), run.rung(0.5)
    assert first.seconds["refine"] > 0
    assert "refine" not in second.seconds
    plain = tools.start(TrialJob(8, knobs, 0)).rung(0.0, evaluate=False)
    assert first.flops > 0.9 * (1 + probes_of_climb()) * plain.flops
    run.save(tmp_path)

    known_before = tools.start(TrialJob(7, knobs, 0, Refinement(layout=layout)))
    assert known_before.run.candidate == child
    known_before.load(tmp_path)
    assert "refine" not in known_before.rung(1.0).seconds
    assert tools.start(job).run.candidate == child  # the climb is seeded
    assert tools.candidate(knobs, 0, layout) == child

    kept = tmp_path / "kept"
    rerun(tools, Rerun(7, knobs, 0, kept, layout))
    assert (kept / "candidate.json").read_text().count('"index"') == len(child.plan.layers)
    rerun(tools, Rerun(7, knobs, 0, None, layout, child.plan.identity))
    moved = Refinement(layout, plan=parent.plan.identity)
    with pytest.raises(AutoPruneError, match=f"its record has {parent.plan.identity}: another"):
        tools.start(TrialJob(9, knobs, 0, moved))
    grandchild = tools.start(
        TrialJob(9, knobs, 0, Refinement(layout, plan=child.plan.identity))
    ).run.candidate
    assert grandchild.plan not in (child.plan, parent.plan)
    assert grandchild.recipe == parent.recipe
