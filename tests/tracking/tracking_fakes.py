"""A search that never ran, for plots, tables and stores to show."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.summary import SearchInfo, SearchSummary
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import KeepMap, TrialRecord

DENSE = 2_058_944
BACKBONE = 1_700_000
TASKS = ("digits_read", "digits_color", "digits_where", "digits_count", "digits_sum")
BYTES = {"float32": 4.0, "int8": 1.6, "int4": 1.1}  # a parameter, on average
LAYERS, HEADS, CHANNELS = 10, 4, 352


def fake_keep(rng: np.random.Generator, axis: str, share: float) -> KeepMap:
    heads = np.full(LAYERS, HEADS)
    channels = np.full(LAYERS, CHANNELS)
    if axis in ("width", "hybrid"):
        profile = np.clip(share + 0.2 * rng.standard_normal(LAYERS), 0.1, 1)
        heads = np.maximum(1, np.round(HEADS * profile)).astype(int)
        channels = np.round(CHANNELS * profile).astype(int)
    if axis in ("depth", "hybrid"):
        gone = rng.choice(LAYERS, size=max(1, int(LAYERS * (1 - share) * 0.8)), replace=False)
        heads[gone] = channels[gone] = 0
    return KeepMap(
        heads=tuple(int(h) for h in heads),
        channels=tuple(int(c) for c in channels),
        dense_heads=(HEADS,) * LAYERS,
        dense_channels=(CHANNELS,) * LAYERS,
    )


def fake_trial(number: int, state: str = "complete", *, seed: int = 0) -> TrialRecord:
    rng = np.random.default_rng([seed, number])
    axis = ("width", "depth", "hybrid")[number % 3]
    fraction = float(rng.uniform(0.38, 0.6))
    params = int(DENSE * fraction)
    retention = float(np.clip(1.08 - 1.1 * (0.75 - fraction) - rng.exponential(0.12), 0, 1))
    fidelity = 1.0
    if state == "stopped":
        retention, fidelity = retention * 0.6, 1 / 3
    if state == "running":
        fidelity = 1 / 3
    known = state != "failed"
    precision = "float32" if number < 3 else list(BYTES)[number % 3]
    return TrialRecord(
        trial=number,
        state=state,  # type: ignore[arg-type]
        reason={"stopped": "dominated at rung 1", "failed": "loss is not finite"}.get(state, ""),
        origin="sampler" if number > 2 else ("paper-width", "paper-depth", "uniform")[number],
        axis=axis,
        recovery=("sft/full", "sft+hidden/full", "kl/lora")[number % 3],
        data_fraction=(0.05, 0.2, 1.0)[number % 3],
        knobs={"axis": axis, "temperature": round(float(rng.uniform(0.1, 3)), 4), "protect": 1},
        keep=fake_keep(rng, axis, fraction),
        params=params,
        fraction=params / DENSE,
        precision=precision,
        bytes=int(params * BYTES[precision]),
        bytes_fraction=params * BYTES[precision] / (4 * DENSE),
        backbone_removed=(DENSE - params) / BACKBONE,
        rung=round(fidelity * 3),
        fidelity=fidelity,
        proxy_kl=float(rng.exponential(0.3)),
        retention=retention if known else None,
        retention_raw=0.1 + 0.9 * retention if known else None,
        scores={t: float(np.clip(retention * rng.uniform(0.8, 1), 0, 1)) for t in TASKS}
        if known
        else {},
        stage_seconds={"prune": 0.1, "recover": 8.0, "evaluate": 2.5},
        flops=1e12,
        seed=seed,
        versions={"autoprune": "0.1.0"},
    )


def fake_trials(count: int = 24, *, seed: int = 0) -> list[TrialRecord]:
    states = {5: "failed", 7: "stopped", 10: "stopped", 14: "stopped", 17: "stopped", 21: "stopped"}
    return [fake_trial(i, states.get(i, "complete"), seed=seed) for i in range(count)]


def fake_point(record: TrialRecord, *, shrink: float = 0.01, **changes: object) -> FrontPoint:
    assert record.retention is not None
    mean = record.retention - shrink
    point = FrontPoint(
        trial=record.trial,
        params=record.params or 0,
        fraction=record.fraction or 0.0,
        axis=record.axis,
        recovery=record.recovery,
        data_fraction=record.data_fraction or 1.0,
        backbone_removed=record.backbone_removed or 0.0,
        retention=Retention(mean=mean, low=mean - 0.03, high=mean + 0.025, seeds=3),
        retention_raw=record.retention_raw,
        scores=record.scores,
        precision=record.precision,
        bytes=record.bytes,
        bytes_fraction=record.bytes_fraction,
    )
    return point.model_copy(update=changes)


def fake_summary(records: list[TrialRecord] | None = None, *, name: str = "demo") -> SearchSummary:
    records = fake_trials() if records is None else records
    done = sorted((r for r in records if r.state == "complete"), key=lambda r: r.params or 0)
    points: list[FrontPoint] = []
    best = -1.0
    for record in done:
        if (record.retention or 0) > best and record.origin == "sampler":
            best = record.retention or 0
            points.append(fake_point(record))
    if len(points) > 2:
        points[0] = points[0].model_copy(update={"dominated": True})
        points[1] = points[1].model_copy(update={"tied_with": (points[2].trial,)})
        tied = {"tied_with": (points[1].trial,), "tied_smaller": (points[1].trial,)}
        mean = points[1].retention.mean - 0.01
        lower = Retention(mean=mean, low=mean - 0.03, high=mean + 0.03, seeds=3)
        points[2] = points[2].model_copy(update={**tied, "behind": True, "retention": lower})
    baselines = [fake_point(r, baseline=r.origin) for r in done if r.origin != "sampler"]
    return SearchSummary(
        name=name,
        dense=Dense(params=DENSE, scores=dict.fromkeys(TASKS, 0.95)),
        budget=Budget(text="60%", params=int(0.6 * DENSE), fraction=0.6),
        points=tuple(points),
        baselines=tuple(baselines),
        hypervolume=0.123,
        hypervolume_low=0.101,
        hypervolume_high=0.145,
        shrinkage=0.012,
        shrinkage_low=0.004,
        shrinkage_high=0.020,
        seconds=312.0,
        versions={"autoprune": "0.1.0", "torch": "2.15.0"},
    )


def fake_byte_summary(records: list[TrialRecord]) -> SearchSummary:
    """The same trials, with bytes as the objective: every confirmed one is a point."""
    done = sorted((r for r in records if r.state == "complete"), key=lambda r: r.bytes or 0)
    points = []
    for record in done:
        higher = any((p.retention.mean >= (record.retention or 0) - 0.01) for p in points)
        points.append(fake_point(record, dominated=higher))
    return fake_summary(records).model_copy(
        update={
            "objective": "bytes",
            "dense": Dense(params=DENSE, bytes=4 * DENSE, scores=dict.fromkeys(TASKS, 0.95)),
            "budget": Budget(text="5MiB-bytes", params=DENSE, fraction=1.0, bytes=5 * 2**20),
            "points": tuple(points),
        }
    )


def fake_info(name: str = "demo", **changes: object) -> SearchInfo:
    summary = fake_summary([])
    info = SearchInfo(
        name=name,
        key=f"{name}-0123",
        settings={"model": "embedded", "sampler": "tpe", "seed": 0},
        files={"space.yaml": "axis: [width, depth]\n"},
        versions=summary.versions,
        measured={"importance_peak_gib": 14.25},
        dense=summary.dense,
        budget=summary.budget,
    )
    return info.model_copy(update=changes)


def statuses(home: Path) -> list[tuple[str, str]]:
    """Name and status of every run, straight from the file."""
    with sqlite3.connect(home / "mlflow.db") as connection:
        rows: list[Any] = connection.execute("select name, status from runs").fetchall()
    return sorted(rows)
