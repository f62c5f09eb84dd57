"""The end of a search: run the front again with several seeds, keep its weights, sum up.

Each run of the confirmation is written down as it ends, so that a search which is killed here
goes on with the runs that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import StoppedError
from autoprune.evaluation.floors import Floor
from autoprune.evaluation.scores import TaskScores
from autoprune.models.arrays import state_arrays
from autoprune.pruning.layout import Layout
from autoprune.search.fronts.area import area
from autoprune.search.fronts.confirm import (
    Confirmed,
    front_points,
    is_full,
    meeting,
    members,
    scatter,
    shrinkage,
)
from autoprune.search.records.store import SearchStore, write_atomically
from autoprune.search.settings import SearchSettings
from autoprune.search.trial.bench import TrialBench
from autoprune.search.work import Bench, Pool
from autoprune.search.workers.pool import Failure
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense, Running
from autoprune.tracking.records.trial import TrialRecord

WEIGHTS, CANDIDATE = "weights.npz", "candidate.json"
"""Files of a kept front member; bfloat16 stands as its bits, see ``models.arrays``."""

DENSE = "dense.json"
"""File beside the confirmation's runs: which dense model it is against, and its own answers."""


@dataclass(frozen=True)
class Ending:
    """What the end of a search needs to know of its beginning.

    Attributes:
        settings: of the search.
        scores: of the dense model on the ``confirm`` split.
        identity: content hash of the dense model.
        dense: the dense model in short.
        budget: the bound on the size.
        versions: of what results depend on.
        groups: tasks by capability.
        floors: what of the dense model's ability has to stay.
        running: what memory and latency are said for.
    """

    settings: SearchSettings
    scores: TaskScores
    identity: str
    dense: Dense
    budget: Budget
    versions: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    floors: tuple[Floor, ...] = ()
    running: Running | None = None


@dataclass(frozen=True)
class Rerun:
    """One run of the confirmation: a trial's candidate with a seed.

    Attributes:
        trial: its number.
        knobs: of the trial.
        seed: of the recovery's data subset and order.
        keep: where to write candidate and recovered weights, or None.
        layout: of the trial, where the knobs do not say it.
        plan: identity of the trial's plan, as recorded.
    """

    trial: int
    knobs: dict[str, Any]
    seed: int
    keep: Path | None
    layout: Layout | None = None
    plan: str = ""


def rerun(bench: Bench, work: Rerun) -> dict[str, Any]:
    """Recover a candidate in full and score it on the ``confirm`` split; runs on a worker."""
    assert isinstance(bench, TrialBench)
    run = bench.bench.start(bench.candidate(work.knobs, work.seed, work.layout, work.plan))
    result = run.rung(1.0, split="confirm")
    if work.keep is not None:
        keep_model(run.finish(), run.candidate.to_dict(), work.keep)
    assert result.scores is not None
    return result.scores.to_dict()


def keep_model(model: Any, candidate: dict[str, Any], directory: Path) -> None:
    """Write recovered weights and the candidate that they belong to."""
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / ".weights.part"
    with part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **state_arrays(model))
    part.replace(directory / WEIGHTS)
    write_atomically(directory / CANDIDATE, json.dumps(candidate, indent=1))


def finish(
    ending: Ending,
    records: Sequence[TrialRecord],
    pool: Pool,
    store: SearchStore,
    on_confirm: Callable[[int, int], None],
) -> SearchSummary:
    """Confirm the front of ``records`` and the baselines beside it, and sum the search up.

    Raises:
        StoppedError: if no member of the front could be run again.
    """
    settings = ending.settings
    objective = settings.counted
    chosen = members(records, settings.confirm_points, objective)
    full = [r for r in records if is_full(r, objective)]
    beside = [r for r in full if r.baseline is not None and r not in chosen]
    scored = _run_all(ending, [*chosen, *beside], pool, store, on_confirm)
    confirmed = [
        Confirmed(record, tuple(scored[record.trial]))
        for record in [*chosen, *beside]
        if scored.get(record.trial)
    ]
    if not confirmed:
        folder = store.directory / "confirm"
        reasons = [path.read_text().strip() for path in sorted(folder.glob("*.error.txt"))]
        raise StoppedError(
            f"no member of the front of search {store.name!r} could be run again "
            f"({reasons[0] if reasons else 'no run ended'}): see {folder}; "
            f"'autoprune search --resume {store.typed}' tries again"
        )
    points = front_points(
        confirmed,
        ending.scores,
        objective=objective,
        groups=ending.groups,
        floors=ending.floors,
    )
    write_dense(store.directory, ending.identity, ending.scores)
    own = {record.trial for record in chosen}
    lost = shrinkage([c for c in confirmed if c.record.trial in own], points)
    volume = area(
        meeting(confirmed, points), ending.scores, objective, scatter(confirmed, ending.scores)
    )
    return SearchSummary(
        name=store.name,
        dense=ending.dense,
        budget=ending.budget,
        objective=settings.objective,
        timed=settings.timed,
        running=ending.running,
        # A baseline that is behind stands among the baselines, with its tie.
        points=tuple(
            p for p in points if p.trial in own or not (p.dominated or p.behind or p.missed)
        ),
        baselines=tuple(p for p in points if p.baseline is not None),
        hypervolume=0.0 if volume is None else volume.mean,
        hypervolume_low=None if volume is None else volume.low,
        hypervolume_high=None if volume is None else volume.high,
        shrinkage=None if lost is None else lost.mean,
        shrinkage_low=None if lost is None else lost.low,
        shrinkage_high=None if lost is None else lost.high,
        groups=dict(ending.groups),
        floors={floor.name: floor.least for floor in ending.floors},
        versions=dict(ending.versions),
    )


def write_dense(directory: Path, identity: str, scores: TaskScores) -> None:
    """Write what retention is measured against, so that searches can be compared later."""
    value = {"identity": identity, "scores": scores.to_dict()}
    write_atomically(directory / "confirm" / DENSE, json.dumps(value))


def _run_all(
    ending: Ending,
    records: Sequence[TrialRecord],
    pool: Pool,
    store: SearchStore,
    on_confirm: Callable[[int, int], None],
) -> dict[int, list[TaskScores]]:
    """Return the scores of each trial by seed; those on disk are not run again."""
    folder = store.directory / "confirm"
    folder.mkdir(exist_ok=True)
    settings = ending.settings
    runs = [
        Rerun(
            trial=record.trial,
            knobs=record.given,
            seed=record.seed + turn,
            keep=kept_dir(store, record.trial) if settings.keep and turn == 0 else None,
            layout=None if record.layout is None else Layout.from_dict(record.layout),
            plan=record.plan,
        )
        for turn in range(settings.confirm_seeds)
        for record in records
    ]
    files = [folder / f"{run.trial:04d}-{run.seed}.json" for run in runs]
    missing = [i for i, path in enumerate(files) if not path.is_file()]
    done = len(runs) - len(missing)
    on_confirm(done, len(runs))

    def on_done(index: int, result: Any) -> None:
        nonlocal done
        done += 1
        path = files[missing[index]]
        if isinstance(result, Failure):
            write_atomically(path.with_suffix(".error.txt"), result.reason + "\n")
        else:
            write_atomically(path, json.dumps(result))
        on_confirm(done, len(runs))

    pool.run(rerun, [runs[i] for i in missing], on_done)
    scored: dict[int, list[TaskScores]] = {}
    for run, path in zip(runs, files, strict=True):
        if path.is_file():
            scores = TaskScores.from_dict(json.loads(path.read_text()))
            scored.setdefault(run.trial, []).append(scores)
    return scored


def kept_dir(store: SearchStore, trial: int) -> Path:
    """Return where a front member's recovered weights are kept."""
    return store.directory / "kept" / f"{trial:04d}"
