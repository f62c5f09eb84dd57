"""Searches beside each other: what is refused, what is paired, what stands once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.confirmed import WHOLE, finished_search

from autoprune.cli.compare import searches_table, sizes_table
from autoprune.errors import AutoPruneError
from autoprune.evaluation.retention import paired_difference
from autoprune.search.compare import (
    Finished,
    compare_searches,
    once,
    read_finished,
    shared_sizes,
)
from autoprune.search.fronts.area import difference, stairs
from autoprune.search.fronts.confirm import scatter
from autoprune.search.records.store import SearchStore
from autoprune.tracking.comparison import Comparison
from autoprune.tracking.overlay import overlay_figure
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.terms import Running
from autoprune.tracking.records.timing import Timing
from autoprune.tracking.terminal import bytes_text

FOUND = {0.4: 0.6, 0.5: 0.75, 0.6: 0.9}
BETTER = {0.42: 0.75, 0.5: 0.85, 0.6: 0.93}
BASE = {"paper-width": (0.6, 0.7), "paper-depth": (0.55, 0.6)}


def read(store: SearchStore) -> Finished:
    summary = store.summary()
    assert summary is not None
    return read_finished(store, summary)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Finished], Comparison]:
    home = tmp_path_factory.mktemp("home")
    one = read(finished_search(home, "one", FOUND, BASE))
    two = read(finished_search(home, "two", BETTER, BASE, draw=1, sampler="random", trials=20))
    return [one, two], compare_searches([one, two])


def test_hypervolumes_are_those_of_the_summaries(
    pair: tuple[list[Finished], Comparison],
) -> None:
    searches, found = pair
    for search, one in zip(searches, found.searches, strict=True):
        assert one.name == search.store.name
        assert one.hypervolume.mean == pytest.approx(search.summary.hypervolume)
        assert one.hypervolume.low == pytest.approx(search.summary.hypervolume_low)
        assert one.hypervolume.high == pytest.approx(search.summary.hypervolume_high)
        assert one.flops == pytest.approx(5e12)
        assert one.trials == 5
        assert one.seconds == 135.0  # with the preparation, which the summary's seconds lack
        assert one.summary.front == search.summary.front
    first, second = found.searches
    assert first.gain is None
    assert second.gain is not None
    assert second.gain.mean == pytest.approx(second.hypervolume.mean - first.hypervolume.mean)
    assert second.gain.verdict == "better"


def test_each_holds_its_best_point_no_larger(pair: tuple[list[Finished], Comparison]) -> None:
    searches, found = pair
    assert [row.share for row in found.sizes] == pytest.approx([0.45, 0.5, 0.55, 0.6])
    for row in found.sizes:
        for search, held in zip(searches, row.held, strict=True):
            assert held.share <= row.share
            fitting = [p.retention.mean for p in search.summary.front if p.fraction <= row.share]
            assert held.retention.mean == pytest.approx(max(fitting))
    last = found.sizes[-1].held
    scores = [
        next(c.scores for c in search.confirmed if c.record.trial == held.trial)
        for search, held in zip(searches, last, strict=True)
    ]
    known = paired_difference(scores[1], scores[0], searches[0].dense)
    assert last[0].gain is None
    assert last[1].gain is not None
    assert last[1].gain.mean == pytest.approx(known.mean)


def test_baselines_stand_once_and_settings_that_differ_are_said(
    pair: tuple[list[Finished], Comparison],
) -> None:
    _, found = pair
    assert [p.baseline for p in found.baselines] == ["paper-depth", "paper-width"]
    assert found.differs == {"--sampler": ("tpe", "random"), "--trials": ("12", "20")}
    assert found.notes == ()
    assert len(found.budgets) == 1


def test_it_survives_json(pair: tuple[list[Finished], Comparison]) -> None:
    _, found = pair
    assert Comparison.from_json(found.to_json()) == found


def test_a_run_that_both_share_does_not_differ(tmp_path: Path) -> None:
    strong = {"uniform": (0.45, 0.95)}
    one = read(finished_search(tmp_path, "one", FOUND, strong))
    two = read(finished_search(tmp_path, "two", BETTER, strong, draw=1))
    found = compare_searches([one, two])
    for row in found.sizes:
        gain = row.held[1].gain
        assert gain is not None
        assert (gain.mean, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_runs_that_both_share_tell_the_scatter_of_seeds_once(
    pair: tuple[list[Finished], Comparison],
) -> None:
    (one, two), found = pair
    apart = [*one.confirmed, *(c for c in two.confirmed if c.record.baseline is None)]
    steps = [stairs(search.confirmed, one.dense) for search in (two, one)]
    known = difference(*steps, one.dense, scatter(apart, one.dense))
    gain = found.searches[1].gain
    assert known is not None
    assert gain is not None
    assert (gain.low, gain.high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_a_run_that_both_share_has_one_interval(tmp_path: Path) -> None:
    strong = {"uniform": (0.45, 0.95)}
    one = read(finished_search(tmp_path, "one", FOUND, strong))
    two = read(finished_search(tmp_path, "two", BETTER, strong, draw=1))
    there, back = compare_searches([one, two]), compare_searches([two, one])
    rows = [row for found in (there, back) for row in found.sizes]
    intervals = [held.retention for row in rows for held in row.held]
    intervals += [found.baselines[0].retention for found in (there, back)]
    assert len(rows) > 2
    for interval in intervals:
        assert (interval.low, interval.high) == pytest.approx(
            (intervals[0].low, intervals[0].high), abs=1e-12
        )


def test_time_that_was_not_noted_is_not_known(tmp_path: Path) -> None:
    store = finished_search(tmp_path, "one", FOUND)
    summary = store.summary()
    assert summary is not None
    store.write_summary(summary.model_copy(update={"stages": ()}))
    two = read(finished_search(tmp_path, "two", BETTER))
    assert [one.seconds for one in compare_searches([read(store), two]).searches] == [None, 135.0]


def test_a_baseline_in_two_precisions_is_two(pair: tuple[list[Finished], Comparison]) -> None:
    point = pair[1].baselines[0]
    small = point.model_copy(update={"bytes": 7, "bytes_fraction": 0.1, "precision": "int8"})
    assert len(once([point, small, point], "params")) == 1
    assert once([point, small, point], "bytes") == (small, point)


TIMED = {
    "times": {0.4: 0.9, 0.5: 0.3, 0.6: 0.5},
    "timed": True,
    "device": "rtx-4060",
    "running": Running(context=1024, images=1, image_tokens=16, device="rtx-4060"),
}


def test_where_latency_counts_the_volume_is_that_of_the_summary(tmp_path: Path) -> None:
    searches = [
        read(finished_search(tmp_path, name, FOUND, draw=draw, **TIMED))  # type: ignore[arg-type]
        for draw, name in enumerate(("one", "two"))
    ]
    for search, there in zip(searches, compare_searches(searches).searches, strict=True):
        assert there.hypervolume.mean == pytest.approx(search.summary.hypervolume)
        assert there.hypervolume.low == pytest.approx(search.summary.hypervolume_low)
        assert there.summary.points == search.summary.points


def test_sizes_are_said_in_the_unit_of_the_objective(tmp_path: Path) -> None:
    at = {"objective": "memory", "running": TIMED["running"]}
    one = read(finished_search(tmp_path, "one", FOUND, **at))  # type: ignore[arg-type]
    two = read(finished_search(tmp_path, "two", BETTER, **at))  # type: ignore[arg-type]
    found = compare_searches([one, two])
    assert f"dense model ({bytes_text(8 * WHOLE)})" in str(searches_table(found).title)
    assert overlay_figure(found).layout.xaxis.title.text.startswith("memory kept")


def test_memory_for_another_prompt_is_refused(tmp_path: Path) -> None:
    prompts = [Running(context=length, images=1, image_tokens=16) for length in (512, 1024)]
    one, other = (
        read(finished_search(tmp_path, f"m{p.context}", FOUND, objective="memory", running=p))
        for p in prompts
    )
    with pytest.raises(AutoPruneError, match=r"different prompts or devices \(512 tokens"):
        compare_searches([one, other])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": "f" * 16}, "different dense models (embedded, hash 0123456789abcdef;"),
        ({"tasks": {"digits_read": 0.1}}, "different tasks (digits_read, digits_sum; digits_read)"),
        ({"objective": "bytes"}, "different objectives (params; bytes)"),
        ({"images": 200}, "different questions (300 and 200 of task digits_read)"),
        (TIMED, "different objectives (params; params+latency)"),
    ],
    ids=["model", "tasks", "objective", "images", "latency"],
)
def test_without_a_common_scale_it_is_refused(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    one = read(finished_search(tmp_path, "one", FOUND))
    other = read(finished_search(tmp_path, "other", FOUND, **changes))  # type: ignore[arg-type]
    with pytest.raises(AutoPruneError) as refusal:
        compare_searches([one, other])
    assert said in str(refusal.value)
    assert "'one' and 'other'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_an_earlier_version_left_is_too_little(tmp_path: Path) -> None:
    store = finished_search(tmp_path, "old", FOUND)
    (store.directory / "confirm" / "dense.json").unlink()
    with pytest.raises(AutoPruneError, match=r"--resume old --home .* --trials 4' confirms anew"):
        read(store)
    store = finished_search(tmp_path, "gone", FOUND)
    for path in (store.directory / "confirm").glob("0001-*.json"):
        path.unlink()
    with pytest.raises(AutoPruneError, match="answers of trial 1 of search 'gone'"):
        read(store)


@pytest.mark.parametrize(
    ("low", "high", "sizes"),
    [
        (0.36, 0.6, [0.4, 0.45, 0.5, 0.55, 0.6]),
        (0.37, 0.58, [0.4, 0.45, 0.5, 0.55, 0.58]),
        (0.51, 0.53, [0.53]),
        (0.1, 0.9, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.6, 0.6, [0.6]),
        (0.7, 0.6, []),
    ],
)
def test_shared_sizes(low: float, high: float, sizes: list[float]) -> None:
    assert shared_sizes(low, high) == pytest.approx(sizes)


TIMES = {0.4: 0.5, 0.42: 0.5, 0.5: 0.6, 0.55: 0.6, 0.6: 0.7}
L4 = Running(context=64, images=0, image_tokens=0, device="l4", latency_kind="modelled")
HERE = L4.model_copy(update={"device": "here", "machine": "one-processor"})
ELSEWHERE = HERE.model_copy(update={"machine": "another-processor"})


def timed(home: Path, name: str, running: Running | None, *, measured: bool = False) -> Finished:
    """A search that knows the time of a token, and measured it to be twice what is modelled."""
    times = TIMES if running is not None else None
    found = read(finished_search(home, name, FOUND, BASE, times=times, running=running))
    if not measured:
        return found

    def told(points: tuple[FrontPoint, ...]) -> tuple[FrontPoint, ...]:
        took = [2 * (point.latency or 0.0) for point in points]
        return tuple(
            p.model_copy(update={"measured": Timing(seconds=t, low=t, high=t)})
            for p, t in zip(points, took, strict=True)
        )

    summary = found.summary
    changes = {"points": told(summary.points), "baselines": told(summary.baselines)}
    return replace(found, summary=summary.model_copy(update=changes))


@pytest.mark.parametrize(
    ("places", "measured", "kind", "note"),
    [
        ((L4, L4), (False, False), "modelled", "modelled, for 64 tokens of text on l4, modelled"),
        ((HERE, HERE), (True, True), "measured", "measured, for 64 tokens of text on one-proc"),
        ((HERE, HERE), (True, False), "modelled", "is modelled"),
        ((HERE, ELSEWHERE), (True, True), "", "left out, as it is said for other things: in one"),
        ((HERE, L4), (True, False), "", "on l4, modelled"),
        ((HERE, None), (True, False), "", ""),
        ((None, None), (False, False), "", ""),
    ],
)
def test_times_are_shown_where_all_say_them_alike(
    places: tuple[Running | None, ...],
    measured: tuple[bool, ...],
    kind: str,
    note: str,
    tmp_path: Path,
) -> None:
    searches = [
        timed(tmp_path, name, place, measured=own)
        for name, place, own in zip(("one", "two"), places, measured, strict=True)
    ]
    found = compare_searches(searches)
    factor = {"measured": 0.02, "modelled": 0.01}
    for row in found.sizes:
        for held in row.held:
            assert held.latency_kind == kind
            known = {size: share for size, share in TIMES.items() if abs(size - held.share) < 1e-3}
            expected = None if not kind else factor[kind] * next(iter(known.values()))
            assert held.latency == (None if expected is None else pytest.approx(expected))
    assert [note in line for line in found.notes] == ([True] if note else [])
    for one, own in zip(found.searches, measured, strict=True):
        assert all((point.measured is not None) == own for point in one.summary.points)
    table = Console(width=80)
    with table.capture() as shown:
        table.print(sizes_table(found))
    assert [name in shown.get() for name in factor] == [name == kind for name in factor]
    assert max(map(len, shown.get().splitlines())) <= 80
