"""Confirmed points are timed on this machine where the search was for it; else nothing changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.families import CASES

from autoprune.cost import timing
from autoprune.cost.deployment import deployment_of
from autoprune.cost.devices import Device
from autoprune.cost.latency import Latency
from autoprune.errors import AutoPruneError
from autoprune.models.shape import spec_of
from autoprune.search import problem
from autoprune.search.candidates.bounds import Bounds
from autoprune.search.knobs.space import load_space
from autoprune.search.settings import make_settings
from autoprune.search.timed import timed_here
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense, Running
from autoprune.tracking.records.trial import KeepMap, TrialRecord

CONFIG = next(case for case in CASES.values() if case.text == "qwen2").config()
SPEC = spec_of(CONFIG)
HERE = Device("here", "", "measured", 2**33, 1e9, {"float32": 1e9}, threads=1)


def point(trial: int, baseline: str | None = None) -> FrontPoint:
    return FrontPoint(
        trial=trial,
        params=1,
        fraction=0.5,
        axis="width",
        recovery="sft",
        data_fraction=1.0,
        backbone_removed=0.5,
        precision="float32",
        retention=Retention(mean=0.5, low=0.4, high=0.6, seeds=1),
        latency=1e-3,
        latency_kind="modelled",
        baseline=baseline,
    )


def record(trial: int, known: bool = True) -> TrialRecord:
    heads = tuple(shape.heads for shape in SPEC.layers)
    channels = tuple(shape.channels for shape in SPEC.layers)
    keep = KeepMap(
        heads=heads,
        channels=tuple(max(8, wide // (1 + trial)) for wide in channels),
        dense_heads=heads,
        dense_channels=channels,
    )
    return TrialRecord(trial=trial, state="complete", keep=keep if known else None)


SUMMARY = SearchSummary(
    name="mine",
    dense=Dense(params=2, precision="float32"),
    budget=Budget(text="60%", params=1, fraction=0.6),
    points=(point(0), point(1, "paper")),
    baselines=(point(1, "paper"), point(2, "uniform")),
    running=Running(context=40, images=0, image_tokens=0, device="here", latency_kind="modelled"),
)


def run(records: list[TrialRecord]) -> tuple[SearchSummary, list[str]]:
    warned: list[str] = []
    bounds = Bounds(SPEC, deployment_of(CONFIG, 40, 0), HERE)
    return timed_here(SUMMARY, records, bounds, CONFIG, warned.append), warned


def test_each_confirmed_point_is_timed() -> None:
    found, _ = run([record(0), record(1), record(2)])
    shown = {p.trial: p for p in (*found.points, *found.baselines)}
    for item in (*shown.values(), found.dense):
        assert item.measured is not None
        assert item.measured.kind == "measured"
        assert 0 < item.measured.low <= item.measured.seconds <= item.measured.high
        assert item.measured_latency == item.measured.seconds
    # A baseline that is also a point is timed once; what was modelled stays what decided.
    assert found.points[1].measured == found.baselines[0].measured
    assert {p.latency for p in shown.values()} == {1e-3}
    assert found.running is not None
    assert found.running.machine.endswith(", 1 thread")
    assert found.running.said == "40 tokens of text on here, modelled"


def test_what_no_record_tells_is_left_out() -> None:
    found, warned = run([record(0), record(1, known=False)])
    assert found.points[0].measured is not None
    assert [p.measured for p in found.baselines] == [None, None]
    assert not [line for line in warned if "not measured" in line]


def test_what_cannot_be_timed_keeps_its_modelled_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Any, spec: Any, pruned: Any, *rest: Any, **more: Any) -> Latency:
        if pruned is None:
            raise AutoPruneError("a model of 99GiB cannot be timed")
        return Latency(2e-3, "measured", "here", "float32", 2e-3, 2e-3)

    monkeypatch.setattr(timing, "measure_latency", refuse)
    found, warned = run([record(0), record(1), record(2)])
    assert found.dense.measured is None
    assert found.points[0].measured_latency == 2e-3
    said = "the time of the dense model was not measured (a model of 99GiB cannot be timed)"
    assert warned == [said]


def test_where_nothing_can_be_timed_the_summary_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*rest: Any, **more: Any) -> Latency:
        raise TypeError("a bug")

    monkeypatch.setattr(timing, "measure_latency", broken)
    found, warned = run([record(0), record(1), record(2)])
    assert found == SUMMARY
    assert len(warned) == 4


@pytest.mark.parametrize(("last", "warns"), [(1.1, False), (1.5, True), (0.6, True)])
def test_a_machine_that_is_not_at_rest_is_told_of(
    last: float, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = {None: iter((1e-3, 1e-3, last * 1e-3))}

    def tell(config: Any, spec: Any, pruned: Any, *rest: Any, **more: Any) -> Latency:
        key = None if pruned is None else tuple(pruned)
        seconds = next(rounds.setdefault(key, iter((1e-3, 1e-3, last * 1e-3))))
        return Latency(seconds, "measured", "here", "float32", seconds, seconds)

    monkeypatch.setattr(timing, "measure_latency", tell)
    found, warned = run([record(0), record(1), record(2)])
    assert bool(warned) == warns
    assert all("'autoprune pick mine --device here' measures again" in line for line in warned)
    for item in (found.dense, *found.points):
        assert item.measured is not None
        ends = item.measured.low, item.measured.seconds, item.measured.high
        assert ends == (min(1.0, last) * 1e-3, 1e-3, max(1.0, last) * 1e-3)


@pytest.mark.parametrize(("device", "timed"), [("here", True), ("l4", False), (None, False)])
def test_a_search_for_this_machine_alone_is_timed(
    device: str | None, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    other = SUMMARY.model_copy(update={"name": "timed"})
    monkeypatch.setattr(problem, "timed_here", lambda *given: other)
    bounds = Bounds(SPEC, deployment_of(CONFIG, 40, 0), HERE)
    prepared: Any = problem.PreparedSearch(
        settings=make_settings({"device": device}),
        space=load_space("hybrid"),
        assets=SimpleNamespace(config=CONFIG),  # type: ignore[arg-type]
        context=SimpleNamespace(bounds=bounds),  # type: ignore[arg-type]
        budget=SUMMARY.budget,
    )
    found = prepared.timed(SUMMARY, [], told.append, told.append)
    assert found is (other if timed else SUMMARY)
    assert bool(told) == timed
