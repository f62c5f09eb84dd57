"""The end of a search: what each confirmation run is, and what it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.confirmed import CHANCES, DrawnPool, draw_answers, finished_search, full_record
from support.decoding import CONTEXT

from autoprune.data.fractions import nested_fraction
from autoprune.errors import AutoPruneError, StoppedError
from autoprune.pruning.layout import layout_of
from autoprune.recovery.schedule import SampleOrder
from autoprune.search.candidates.decode import decode
from autoprune.search.finish import DENSE, Ending, Rerun, finish
from autoprune.search.knobs.space import load_space
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.search.trial.bench import TrialBench, TrialWork
from autoprune.search.workers.pool import Failure
from autoprune.tracking.records.terms import Budget, Dense


def asked_runs(home: Path, seeds: int, workers: Any = None) -> list[Rerun]:
    """What a search of seed 5 asks its workers for, to confirm one trial."""
    settings = make_settings({"name": "s", "home": home, "seed": 5, "confirm_seeds": seeds})
    store = SearchStore(search_dir(home, "s"))
    store.open(settings)
    knobs = {"size": 0.5, "axis": "width", "data_fraction": 0.2}
    record = full_record(0, 0.5, 0.9).model_copy(
        update={"seed": 5, "knobs": knobs, "plan": "recorded"}
    )
    pool = DrawnPool(lambda work: draw_answers(0.9, work.seed))
    ending = Ending(
        settings=settings,
        scores=draw_answers(0.97, 1),
        identity="0",
        dense=Dense(params=100),
        budget=Budget(text="60%", params=60, fraction=0.6),
        versions={},
    )
    finish(ending, [record], workers or pool, store, lambda done, total: None)
    return pool.asked


def test_each_confirm_seed_draws_another_subset_in_another_order(tmp_path: Path) -> None:
    runs = asked_runs(tmp_path, 3)
    assert [run.seed for run in runs] == [5, 6, 7]
    work = TrialWork(b"", CONTEXT, load_space("hybrid"))
    bench = TrialBench(None, work)  # type: ignore[arg-type]  # decoding alone is asked of it
    candidates = [bench.candidate(run.knobs, run.seed) for run in runs]
    recipes = [candidate.recipe for candidate in candidates]
    assert [recipe.seed for recipe in recipes] == [5, 6, 7]
    assert {recipe.data_fraction for recipe in recipes} == {0.2}
    assert len({candidate.plan for candidate in candidates}) == 1  # only the recovery differs

    rng = np.random.default_rng(0)
    ring, strata = rng.random(500), rng.integers(0, 4, 500)
    pools = [nested_fraction(ring, strata, r.data_fraction, r.seed) for r in recipes]
    lengths = np.full(500, 20)
    for i, (pool, recipe) in enumerate(zip(pools, recipes, strict=True)):
        assert len(pool) == 100
        for other in pools[:i]:
            assert len(np.intersect1d(pool, other)) < 100
        order = SampleOrder(pool, lengths, recipe.seed, recipe.batch_size).between(0, 100)
        assert set(order) == set(pool)
    # Where all of the data is used the subset cannot differ; its order does.
    whole = np.arange(500)
    orders = [SampleOrder(whole, lengths, r.seed, r.batch_size).between(0, 500) for r in recipes]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_a_plan_that_is_not_the_recorded_one_is_not_confirmed(tmp_path: Path) -> None:
    (run,) = asked_runs(tmp_path, 1)
    bench = TrialBench(None, TrialWork(b"", CONTEXT, load_space("hybrid")))  # type: ignore[arg-type]
    known = bench.candidate(run.knobs, run.seed).plan
    assert run.plan == "recorded"
    assert bench.candidate(run.knobs, run.seed, plan=known.identity).plan == known
    for layout in (None, layout_of(known)):
        with pytest.raises(AutoPruneError, match="its record has recorded: another version") as one:
            bench.candidate(run.knobs, run.seed, layout, run.plan)
        assert known.identity in str(one.value)
        assert "\n" not in str(one.value)


def test_where_nothing_is_confirmed_the_reason_is_said(tmp_path: Path) -> None:
    class Failing:
        def run(self, function: Any, payloads: Any, on_done: Any = None) -> list[Any]:
            for index in range(len(payloads)):
                on_done(index, Failure("its record has another plan"))
            return []

    with pytest.raises(StoppedError, match=r"run again \(its record has another plan\): see"):
        asked_runs(tmp_path, 2, Failing())


def test_decoding_takes_the_seed_from_the_context() -> None:
    knobs = load_space("hybrid").complete({"size": 0.5, "axis": "width"})
    assert decode(knobs, replace(CONTEXT, seed=9)).recipe.seed == 9


def test_the_dense_answers_are_kept_and_the_summary_has_its_intervals(tmp_path: Path) -> None:
    store = finished_search(tmp_path, "a", {0.4: 0.6, 0.5: 0.75, 0.6: 0.9}, {"paper": (0.6, 0.7)})
    kept = json.loads((store.directory / "confirm" / DENSE).read_text())
    assert kept["identity"] == "0123456789abcdef"
    assert [task["name"] for task in kept["scores"]["tasks"]] == list(CHANCES)
    summary = store.summary()
    assert summary is not None
    assert summary.hypervolume_low is not None
    assert summary.hypervolume_high is not None
    assert summary.hypervolume_low < (summary.hypervolume or 0) < summary.hypervolume_high
    assert summary.shrinkage_low is not None
    assert summary.shrinkage_high is not None
    assert summary.shrinkage_low < (summary.shrinkage or 0) < summary.shrinkage_high
    assert summary.stairs == summary.front
    assert [p.baseline for p in summary.baselines] == ["paper"]
    assert all(p.baseline is None for p in summary.points)  # it is dominated


def test_a_tied_point_stays_and_the_staircase_leaves_it_out(tmp_path: Path) -> None:
    found = {0.4: 0.6, 0.5: 0.80, 0.52: 0.80, 0.6: 0.9}
    summary = finished_search(tmp_path, "a", found, {"paper": (0.6, 0.89)}).summary()
    assert summary is not None
    tied = [p for p in summary.front if p.behind]
    assert tied
    for point in tied:
        assert point.tied_smaller or point.tied_with
    means = [p.retention.mean for p in summary.stairs]
    assert means == sorted(means)
    # A baseline that is behind by a tie stands among the baselines, not a second time above.
    assert summary.baselines[0].behind
    assert summary.baselines[0].trial not in {p.trial for p in summary.points}
    assert summary.stairs[-1].retention.mean == pytest.approx(max(means))
