"""Searches in every state that a report may meet; none of them ever ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracking.tracking_fakes import (
    LAYERS,
    TASKS,
    fake_byte_summary,
    fake_summary,
    fake_trial,
    fake_trials,
)

from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import RungRecord, SearchSummary, StageRecord
from autoprune.tracking.records.terms import Running
from autoprune.tracking.records.trial import KeepMap, TrialRecord

EVIL = "</script><img src=x onerror=alert(1)> & “quoted”"
RUNGS = (
    RungRecord(rung=0, share=0.0, trials=3, bins=1, stops=0.25),
    RungRecord(
        rung=1, share=0.1, trials=12, bins=2, correlation=0.7, low=0.1, high=0.93, stops=0.4
    ),
)
STAGES = (
    StageRecord(stage="prepare", forecast=40.0, seconds=20.0),
    StageRecord(stage="trials", forecast=60.0, seconds=90.0),
)


def deep(records: list[TrialRecord]) -> list[TrialRecord]:
    """The same trials of a model with 80 layers."""
    keep = KeepMap(
        heads=tuple(i % 9 for i in range(80)),
        channels=tuple(80 - i for i in range(80)),
        dense_heads=(8,) * 80,
        dense_channels=(80,) * 80,
    )
    return [record.model_copy(update={"keep": keep}) for record in records]


def whole() -> tuple[SearchSummary, list[TrialRecord]]:
    """A finished search with all that a report can show."""
    records = fake_trials()
    records[5] = records[5].model_copy(update={"reason": EVIL})
    changes: dict[str, Any] = {"rungs": RUNGS, "stages": STAGES, "ended": "all 24 were launched"}
    return fake_summary(records).model_copy(update=changes), records


def floored(summary: SearchSummary, kept: bool) -> SearchSummary:
    """The same search with a floor, which its smallest points miss, or all of them."""

    def told(point: FrontPoint, missed: bool) -> FrontPoint:
        mean = point.retention.mean
        changes: dict[str, Any] = {"capabilities": {"reading": mean, "counting": mean - 0.2}}
        if missed:
            changes |= {"missed": {"reading": 0.031}, "dominated": False, "behind": False}
        return point.model_copy(update=changes)

    return summary.model_copy(
        update={
            "floors": {"reading": 0.9},
            "points": tuple(
                told(p, not kept or i < 2) for i, p in enumerate(summary.by_size(summary.points))
            ),
            "baselines": tuple(told(p, not kept) for p in summary.baselines),
        }
    )


def weighed(
    summary: SearchSummary, records: list[TrialRecord]
) -> tuple[SearchSummary, list[TrialRecord]]:
    """The same search with memory as its objective and latency beside it."""

    def run(item: Any) -> Any:
        if not item.fraction:
            return item
        changes = {
            "memory": int(item.fraction * 9e6),
            "memory_fraction": item.fraction * 0.9,
            "latency": 0.02 * item.fraction,
            "latency_fraction": item.fraction,
            "latency_kind": "modelled",
        }
        return item.model_copy(update=changes)

    changes = {
        "objective": "memory",
        "timed": True,
        "running": Running(
            context=1024, images=0, image_tokens=0, device="a-device", latency_kind="modelled"
        ),
        "dense": summary.dense.model_copy(update={"memory": 10_000_000, "latency": 0.02}),
        "budget": summary.budget.model_copy(update={"memory": 5_500_000}),
        "points": tuple(map(run, summary.points)),
        "baselines": tuple(map(run, summary.baselines)),
    }
    return summary.model_copy(update=changes), list(map(run, records))


def cases() -> dict[str, tuple[SearchSummary | None, list[TrialRecord]]]:
    """What searches hold, by what is special about them."""
    summary, records = whole()
    bare = fake_summary([]).model_copy(update={"points": (), "baselines": ()})
    one = summary.front[:1]
    return {
        "whole": (summary, records),
        "one point": (summary.model_copy(update={"points": one, "baselines": ()}), records),
        "bytes": (fake_byte_summary(records), records),
        "memory, timed": weighed(summary, records),
        "floors": (floored(summary, True), records),
        "no floor kept": (floored(summary, False), records),
        "deep": (summary, deep(records)),
        "many": (fake_summary(many := fake_trials(300, seed=3)), many),
        "no keep maps": (summary, [r.model_copy(update={"keep": None}) for r in records]),
        "records gone": (summary, []),
        "nothing confirmed": (bare, records),
        "unfinished": (None, records[:12]),
        "only stopped": (None, [fake_trial(0, "stopped"), fake_trial(1, "running")]),
        "only failures": (None, [fake_trial(i, "failed") for i in range(3)]),
        "nothing yet": (None, []),
    }


def make_store(home: Path, case: str = "whole", name: str = "demo", **settings: Any) -> SearchStore:
    """Write a search as a driver leaves it."""
    summary, records = cases()[case]
    store = SearchStore(search_dir(home, name))
    store.open(make_settings({"name": name, "home": home, "trials": 24, **settings}))
    for record in records:
        store.write_record(record)
    if summary is not None:
        store.write_summary(summary.model_copy(update={"name": name}))
    return store


__all__ = ["EVIL", "LAYERS", "TASKS", "cases", "deep", "make_store", "whole"]
