"""Searches that never ran, confirmed by the real code on answers that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.evaluation.floors import groups_of, read_floors
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.search.finish import Ending, Rerun, finish
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.tracking.records.summary import StageRecord
from autoprune.tracking.records.terms import Budget, Dense, Running
from autoprune.tracking.records.trial import TrialRecord

TOOK = {"prepare": 40.0, "trials": 70.0, "confirm": 25.0}

IMAGES, WHOLE = 300, 2_000_000
CHANCES = {"digits_read": 0.1, "digits_sum": 0.05}


def draw_answers(
    accuracy: float, seed: int, images: int = IMAGES, tasks: Mapping[str, float] = CHANCES
) -> TaskScores:
    """Right and wrong answers; images differ in how hard they are, alike for all models."""
    hard = np.random.default_rng(0).normal(0.0, 0.15, images)
    rng = np.random.default_rng(seed)
    names = np.array([f"i{i}" for i in range(images)])
    found = []
    for name, chance in tasks.items():
        values = (rng.random(images) < accuracy - hard).astype(np.float64)
        found.append(
            TaskScore(name, "exact_match", chance, float(values.mean()), names, names, values)
        )
    return TaskScores(tuple(found))


class DrawnPool:
    """Workers that answer a confirmation's runs at once; remembers what it was asked."""

    def __init__(self, answer: Callable[[Rerun], TaskScores]) -> None:
        self.answer = answer
        self.asked: list[Rerun] = []

    def run(
        self,
        function: Callable[[Any, Any], Any],
        payloads: Sequence[Any],
        on_done: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        self.asked += payloads
        results = [self.answer(work).to_dict() for work in payloads]
        for index, result in enumerate(results):
            if on_done is not None:
                on_done(index, result)
        return results


def full_record(
    trial: int,
    fraction: float,
    retained: float,
    origin: str = "sampler",
    times: Mapping[float, float] | None = None,
) -> Any:
    latency = None if times is None else times[fraction]
    return TrialRecord(
        trial=trial,
        state="complete",
        origin=origin,
        fidelity=1.0,
        params=int(WHOLE * fraction),
        fraction=fraction,
        bytes=int(4 * WHOLE * fraction),
        bytes_fraction=fraction,
        memory=int(8 * WHOLE * fraction),
        memory_fraction=fraction,
        latency=None if latency is None else 0.01 * latency,
        latency_fraction=latency,
        precision="float32",
        retention=retained,
        axis="hybrid",
        recovery="sft/full",
        data_fraction=0.2,
        backbone_removed=1.2 * (1 - fraction),
        flops=1e12,
    )


def finished_search(
    home: Path,
    name: str,
    found: Mapping[float, float],
    baselines: Mapping[str, tuple[float, float]] | None = None,
    *,
    identity: str = "0123456789abcdef",
    images: int = IMAGES,
    tasks: Mapping[str, float] = CHANCES,
    draw: int = 0,
    times: Mapping[float, float] | None = None,
    running: Running | None = None,
    **asked: object,
) -> SearchStore:
    """Write a finished search.

    Args:
        found: size -> accuracy of what it found.
        baselines: name -> size and accuracy; equal ones answer alike in every search.
        identity, images, tasks: of the dense model and the confirmation.
        draw: of the answers of what it found.
        times: size -> share of the dense model's time a token.
        running: what memory and latency are said for.
        asked: settings.
    """
    settings = make_settings({"name": name, "home": home, "trials": 12, **asked})
    store = SearchStore(search_dir(home, name))
    store.open(settings)
    accuracies: dict[int, tuple[float, int]] = {}
    records = []
    for base, (size, accuracy) in (baselines or {}).items():
        accuracies[len(records)] = (accuracy, 100)
        records.append(full_record(len(records), size, accuracy + 0.02, base, times))
    for size, accuracy in found.items():
        accuracies[len(records)] = (accuracy, 1000 * (draw + 1) + 10 * len(records))
        records.append(full_record(len(records), size, accuracy + 0.02, times=times))
    for record in records:
        store.write_record(record)

    def answer(work: Rerun) -> TaskScores:
        accuracy, start = accuracies[work.trial]
        return draw_answers(accuracy, start + work.seed, images, tasks)

    ending = Ending(
        settings=settings,
        scores=draw_answers(0.97, 7, images, tasks),
        identity=identity,
        dense=Dense(params=WHOLE, bytes=4 * WHOLE, memory=8 * WHOLE, precision="float32"),
        budget=Budget(
            text="60%",
            params=int(0.6 * WHOLE),
            fraction=0.6,
            bytes=int(2.4 * WHOLE),
            memory=int(4.8 * WHOLE),
        ),
        versions={},
        groups=groups_of(resolve_tasks(list(tasks))),
        floors=read_floors(settings.floors, resolve_tasks(list(tasks))),
        running=running,
    )
    summary = finish(ending, records, DrawnPool(answer), store, lambda done, total: None)
    stages = tuple(StageRecord(stage=n, seconds=s) for n, s in TOOK.items())
    store.write_summary(summary.model_copy(update={"seconds": 100.0, "stages": stages}))
    return store
