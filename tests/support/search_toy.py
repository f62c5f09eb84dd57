"""A problem without a model: retention is a formula of the knobs, and knobs can break it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.search.candidates.narrow import Narrowed
from autoprune.search.fronts.front import nondominated
from autoprune.search.knobs.space import Space
from autoprune.search.records.stages import Forecast
from autoprune.search.records.store import SearchStore
from autoprune.search.settings import SearchSettings
from autoprune.search.work import Baseline, Measured, TrialJob
from autoprune.search.workers.pool import Failure, WorkerPool
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import TrialRecord

SPACE = """
description: toy
rungs: [0, 0.5, 1]
knobs:
  size: {low: 0, high: 1}
  axis: [width, depth]
  temperature: {low: 0, high: 1}
"""
DENSE = 1000


def quality(knobs: Mapping[str, Any]) -> float:
    """Best at temperature 0.7, better in width."""
    size = 0.3 + 0.3 * float(knobs["size"])
    loss = (float(knobs["temperature"]) - 0.7) ** 2 + (0.1 if knobs["axis"] == "depth" else 0.0)
    return 1.2 * size**0.5 - loss


@dataclass
class ToyRun:
    job: TrialJob
    work: ToyWork
    weights: np.ndarray
    share: float = 0.0

    def describe(self) -> dict[str, Any]:
        fraction = 0.3 + 0.3 * float(self.job.knobs["size"])
        refined = self.job.refinement is not None
        return {
            **({"layout": {"heads": [1], "groups": [1], "channels": [1]}} if refined else {}),
            "axis": str(self.job.knobs["axis"]),
            "recovery": "sft",
            "data_fraction": 1.0,
            "params": int(fraction * DENSE),
            "fraction": fraction,
            "backbone_removed": 1 - fraction,
        }

    def rung(self, share: float, evaluate: bool = True) -> Measured:
        trouble = self.work.trouble.get(self.job.number)
        if share > 0 and trouble == "raise":
            raise ValueError("no such luck\nsecond line")
        if share > 0 and trouble == "memory":
            raise MemoryError("640K")
        if share > 0 and trouble == "write":
            self.weights[0] = 1.0
        if share == 1 and trouble == "kill":
            flag = Path(self.work.log).with_name(f"killed-{self.job.number}")
            if not flag.exists():
                flag.touch()
                os._exit(9)
        if share == 1 and trouble == "kill-twice":
            os._exit(9)
        start = time.perf_counter()
        time.sleep(self.work.seconds * max(0.1, share - self.share))
        if self.work.log:
            with open(self.work.log, "a") as stream:
                stream.write(json.dumps([self.job.number, share, self.share, os.getpid()]) + "\n")
        self.share = share
        value = float("nan") if trouble == "nan" else quality(self.job.knobs) * (0.5 + share / 2)
        return Measured(
            share,
            proxy_kl=1.0 - value if not evaluate else None,
            retention=value if evaluate else None,
            retention_raw=value if evaluate else None,
            per_task={"digits_read": min(1.0, max(0.0, value))} if evaluate else {},
            seconds={"recover": time.perf_counter() - start},
            flops=1e9,
        )

    def save(self, directory: Path) -> None:
        (directory / "toy.json").write_text(json.dumps(self.share))

    def load(self, directory: Path) -> None:
        self.share = json.loads((directory / "toy.json").read_text())


@dataclass
class ToyBench:
    work: ToyWork
    arrays: Mapping[str, np.ndarray]

    def start(self, job: TrialJob) -> ToyRun:
        assert float(self.arrays["weights"].sum()) == 3 * 2**16
        if job.refinement is not None and job.refinement.layout is None and self.work.log:
            with open(f"{self.work.log}-climbs", "a") as stream:
                stream.write(f"{job.number}\n")
        return ToyRun(job, self.work, self.arrays["weights"])


@dataclass(frozen=True)
class ToyWork:
    seconds: float = 0.0
    trouble: Mapping[int, str] = field(default_factory=dict)
    log: str = ""

    def open(self, arrays: Mapping[str, np.ndarray], resources: Any) -> ToyBench:
        return ToyBench(self, arrays)


def confirm_one(bench: ToyBench, payload: tuple[dict[str, Any], int]) -> float:
    knobs, seed = payload
    if knobs.get("size") == -1:
        raise ValueError("confirm")
    return quality(knobs) + 0.001 * seed


@dataclass
class ToyPrepared:
    work: ToyWork
    baselines: Sequence[Baseline] = (
        Baseline("uniform", {"size": 1.0, "axis": "width", "temperature": 0.0}),
        Baseline("depth", {"size": 1.0, "axis": "depth", "temperature": 0.0}),
    )
    arrays: Mapping[str, np.ndarray] = field(
        default_factory=lambda: {"weights": np.full(2**16, 3.0, np.float32)}
    )
    dense: Dense = field(default_factory=lambda: Dense(params=DENSE, scores={"digits_read": 1.0}))
    budget: Budget = field(default_factory=lambda: Budget(text="60%", params=600, fraction=0.6))
    confirm_share: float = 2.0
    versions: Mapping[str, str] = field(default_factory=lambda: {"toy": "1"})
    facts: Mapping[str, Any] = field(
        default_factory=lambda: {
            "dense": "toy",
            "tasks": ["digits_read"],
            "max_recovery_samples": 800,
            "objective": "params",
            "sizes": {"params": [300, 600]},
        }
    )
    measured: Mapping[str, float] = field(default_factory=lambda: {"importance_peak_gib": 0.5})

    def finish(
        self,
        records: Sequence[TrialRecord],
        pool: WorkerPool,
        store: SearchStore,
        on_confirm: Callable[[int, int], None],
    ) -> SearchSummary:
        full = [r for r in records if r.state == "complete"]
        front = [full[i] for i in nondominated([(r.fraction or 1, r.retention or 0) for r in full])]
        calls = [(dict(r.knobs), seed) for r in front for seed in range(3)]
        done: list[int] = []

        def on_done(index: int, result: Any) -> None:
            done.append(index)
            on_confirm(len(done), len(calls))

        values = pool.run(confirm_one, calls, on_done)
        assert not any(isinstance(v, Failure) for v in values)
        points = tuple(
            FrontPoint(
                trial=r.trial,
                params=r.params or 0,
                fraction=r.fraction or 0,
                axis=r.axis,
                recovery=r.recovery,
                data_fraction=1.0,
                backbone_removed=r.backbone_removed or 0,
                retention=Retention(mean=v[1], low=v[0], high=v[2], seeds=3),
            )
            for r, v in zip(
                front, (values[i : i + 3] for i in range(0, len(values), 3)), strict=True
            )
        )
        return SearchSummary(dense=self.dense, budget=self.budget, points=points)

    def timed(
        self,
        summary: SearchSummary,
        records: Sequence[TrialRecord],
        on_stage: Callable[[str], None],
        on_warning: Callable[[str], None],
    ) -> SearchSummary:
        return summary


@dataclass
class ToyProblem:
    work: ToyWork = field(default_factory=ToyWork)
    prepared: Callable[[ToyWork], ToyPrepared] = ToyPrepared
    expected: Forecast | None = None

    def forecast(self, settings: SearchSettings, space: Space) -> Forecast | None:
        return self.expected

    def narrow(self, settings: SearchSettings, space: Space) -> Narrowed:
        return Narrowed(space)

    def prepare(
        self, settings: SearchSettings, space: Space, on_stage: Callable[[str], None]
    ) -> ToyPrepared:
        on_stage("prepare")
        return self.prepared(self.work)


def write_space(directory: Path) -> str:
    path = directory / "toy.yaml"
    path.write_text(SPACE)
    return str(path)
