"""A finished search that never ran, for commands to show."""

from __future__ import annotations

from pathlib import Path

from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Dense
from autoprune.tracking.records.trial import TrialRecord

DENSE = 2_000_000


def point(trial: int, params: int, mean: float, **more: object) -> FrontPoint:
    values = {
        "trial": trial,
        "params": params,
        "fraction": params / DENSE,
        "axis": "hybrid",
        "recovery": "sft+hidden/full",
        "data_fraction": 0.05,
        "backbone_removed": 0.5,
        "retention": Retention(mean=mean, low=mean - 0.01, high=mean + 0.01, seeds=3),
        "retention_raw": mean,
        "scores": {"digits_read": mean},
    }
    return FrontPoint(**{**values, **more})


def summary(name: str = "demo") -> SearchSummary:
    return SearchSummary(
        name=name,
        dense=Dense(params=DENSE, scores={"digits_read": 0.98}),
        budget={"text": "60%", "params": 1_200_000, "fraction": 0.6},
        points=(
            point(7, 900_000, 0.90),
            point(9, 1_000_000, 0.89, dominated=True),
            point(4, 1_190_000, 0.96, tied_with=(1,)),
        ),
        baselines=(
            point(0, 1_200_000, 0.91, baseline="paper-depth"),
            point(1, 1_200_000, 0.955, baseline="uniform-width"),
            point(2, 800_000, 0.70, baseline="paper-width-half"),
        ),
        hypervolume=0.5,
        shrinkage=float("nan"),
        seconds=100.0,
    )


def settings(home: Path, name: str = "demo") -> SearchSettings:
    return make_settings({"name": name, "home": home, "trials": 12})


def finished(home: Path, name: str = "demo") -> SearchStore:
    """Write a finished search as a driver leaves it."""
    store = started(home, name)
    store.write_summary(summary(name))
    return store


def started(home: Path, name: str = "demo") -> SearchStore:
    """Write a search that was stopped after three trials."""
    store = SearchStore(search_dir(home, name))
    store.open(settings(home, name))
    for trial, state in enumerate(("complete", "failed", "running")):
        store.write_record(
            TrialRecord(
                trial=trial,
                state=state,
                axis="width",
                params=1_100_000 + trial,
                fraction=0.55,
                fidelity=1.0,
                retention=0.9 if state == "complete" else None,
                reason="out of memory" if state == "failed" else "",
            )
        )
    return store
