"""What a search searches: the pipeline of a vision-language model, behind the seam of ``work``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cost.budget import parse_budget
from autoprune.cost.parameters import size_of
from autoprune.errors import AutoPruneError
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models.shape import BackboneSpec
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import Preparation, inspect, prepare
from autoprune.pipeline.run import Bench, CandidateRun, RungResult
from autoprune.pruning.allocation import Allocation, reachable
from autoprune.resources import Resources
from autoprune.search.baselines import baselines, room
from autoprune.search.decode import DecodeContext, decode
from autoprune.search.finish import finish
from autoprune.search.pool import WorkerPool
from autoprune.search.settings import SearchSettings
from autoprune.search.space import Space, Value
from autoprune.search.store import SearchStore
from autoprune.search.work import Baseline, TrialJob
from autoprune.tracking.records import Budget, Dense, KeepMap, SearchSummary, TrialRecord
from autoprune.zoo import EMBEDDED

SMALLEST_SHARE = 0.6
"""Sizes are sampled from this share of the budget up to it."""

_VERSIONED = ("autoprune", "torch", "transformers", "peft", "lmms-eval", "optuna", "ray")


@dataclass(frozen=True)
class Sizes:
    """The sizes that a search samples from: whole model, parameters."""

    smallest: int
    budget: Budget


def read_sizes(settings: SearchSettings, spec: BackboneSpec) -> Sizes:
    """Read budgets and smallest size against the dense model and what pruning can reach.

    Raises:
        AutoPruneError: for a budget that cannot be read, is not below the dense size, or is
            below what can be reached; for a smallest size that is not below the budget.
    """
    embedded = settings.model == EMBEDDED
    tightest = min(
        (parse_budget(text, spec, embedded=embedded) for text in settings.budgets),
        key=lambda budget: budget.params,
    )
    least, _ = reachable(spec, Allocation(axis="hybrid"))
    if tightest.params < least:
        raise AutoPruneError(
            f"budget {tightest.text!r} allows {tightest.params:,} parameters, and pruning the "
            f"backbone reaches {least:,} ({least / spec.total_params:.0%} of the model) at the "
            f"least: ask for that or more"
        )
    smallest = max(least, round(SMALLEST_SHARE * tightest.params))
    if settings.min_size is not None:
        smallest = parse_budget(settings.min_size, spec, embedded=embedded).params
        if smallest < least:
            raise AutoPruneError(
                f"--min-size {settings.min_size!r} is {smallest:,} parameters, below the "
                f"{least:,} that pruning the backbone can reach: ask for that or more"
            )
        if smallest >= tightest.params:
            raise AutoPruneError(
                f"--min-size {settings.min_size!r} is not below the budget {tightest.text!r}: "
                "ask for less, or leave it out"
            )
    fraction = tightest.params / spec.total_params
    return Sizes(smallest, Budget(text=tightest.text, params=tightest.params, fraction=fraction))


def preparation(settings: SearchSettings) -> Preparation:
    """Return what a search has to prepare."""
    return Preparation(
        model=settings.model,
        tasks=resolve_tasks(settings.tasks or None),
        splits=(
            ("search", settings.search_samples),
            ("confirm", settings.confirm_samples),
        ),
        cache_limit=settings.cache_bytes,
    )


class PipelineProblem:
    """The default :class:`~autoprune.search.work.Problem`."""

    @property
    def modules(self) -> Sequence[str]:
        """Modules that workers import while the driver prepares."""
        return ("autoprune.search.problem", "autoprune.evaluation.harness", "peft")

    def prepare(
        self, settings: SearchSettings, space: Space, on_stage: Callable[[str], None]
    ) -> PreparedSearch:
        """Check the settings against the model, then measure and cache what trials share."""
        sizes = read_sizes(settings, inspect(settings.model).spec)
        wanted = preparation(settings)
        resources = Resources(
            cpus=settings.workers * settings.cpus_per_trial, gpus=settings.gpus_per_trial
        )
        assets = prepare(wanted, Path(settings.home) / "cache", resources, on_stage)
        context = DecodeContext(
            spec=assets.spec,
            importance=assets.importance,
            min_params=sizes.smallest,
            max_params=sizes.budget.params,
            train_samples=len(assets.train),
            max_recovery_samples=settings.max_recovery_samples,
            data_fraction=settings.data_fraction,
        )
        return PreparedSearch(settings, space, assets, context, sizes.budget)


@dataclass(frozen=True)
class PreparedSearch:
    """A search that is ready to run: a :class:`~autoprune.search.work.Prepared`."""

    settings: SearchSettings
    space: Space
    assets: Assets
    context: DecodeContext
    budget: Budget

    @cached_property
    def _parts(self) -> tuple[bytes, dict[str, np.ndarray]]:
        return self.assets.split()

    @property
    def work(self) -> TrialWork:
        """What travels to the workers by pickle."""
        return TrialWork(self._parts[0], self.context, self.space)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What travels to the workers by shared memory."""
        return self._parts[1]

    @property
    def baselines(self) -> Sequence[Baseline]:
        """The study's recommendations and uniform cuts, as far as there is room for them."""
        return baselines(self.space, self._removed_at, room(self.settings.trials))

    def _removed_at(self, size: float) -> float:
        """Return the share of the backbone removed at a value of the knob ``size``."""
        span = self.context.max_params - self.context.min_params
        spec = self.context.spec
        kept = self.context.min_params + size * span - spec.outside_params
        return 1 - kept / spec.backbone_params

    @property
    def dense(self) -> Dense:
        """The model before pruning, scored on the ``confirm`` split."""
        scores = self.assets.exams["confirm"].dense
        return Dense(params=self.assets.spec.total_params, scores=scores.by_task)

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of what a trial's result depends on."""
        return {name: version(name) for name in _VERSIONED}

    def finish(
        self,
        records: Sequence[TrialRecord],
        pool: WorkerPool,
        store: SearchStore,
        on_confirm: Callable[[int, int], None],
    ) -> SearchSummary:
        """Confirm the front and the baselines, and sum the search up."""
        return finish(self, records, pool, store, on_confirm)


@dataclass(frozen=True)
class TrialWork:
    """What a worker needs beside the arrays; a :class:`~autoprune.search.work.Work`."""

    small: bytes
    context: DecodeContext
    space: Space

    def open(self, arrays: Mapping[str, np.ndarray], resources: Resources) -> TrialBench:
        """Join the shared arrays and open the exams."""
        return TrialBench(Bench(Assets.join(self.small, arrays), resources), self)


class TrialBench:
    """A worker's tools; a :class:`~autoprune.search.work.Bench`."""

    def __init__(self, bench: Bench, work: TrialWork) -> None:
        self.bench = bench
        self.work = work

    def candidate(self, knobs: Mapping[str, Value], seed: int) -> Candidate:
        """Decode knobs, with the recovery's subset and order drawn by ``seed``."""
        return decode(self.work.space.complete(knobs), replace(self.work.context, seed=seed))

    def start(self, job: TrialJob) -> PipelineRun:
        """Build the candidate of a trial."""
        candidate = self.candidate(job.knobs, job.seed)
        return PipelineRun(self.bench.start(candidate), str(job.knobs["axis"]))


class PipelineRun:
    """One candidate under way; a :class:`~autoprune.search.work.TrialRun`."""

    def __init__(self, run: CandidateRun, axis: str) -> None:
        self.run = run
        self.axis = axis

    def describe(self) -> Mapping[str, Any]:
        """Return the record's fields that are known before any rung."""
        return describe(self.run.candidate, self.run.assets.spec, self.axis)

    def rung(self, share: float, evaluate: bool = True) -> RungResult:
        """Recover up to ``share``; score on the ``search`` split, or by the proxy alone."""
        return self.run.rung(share, split="search" if evaluate else None)

    def save(self, directory: Path) -> None:
        """Write what :meth:`load` needs."""
        self.run.save(directory)

    def load(self, directory: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        self.run.load(directory)


def describe(candidate: Candidate, spec: BackboneSpec, axis: str) -> dict[str, Any]:
    """Return a candidate as fields of ``TrialRecord``, plain JSON values."""
    size = size_of(spec, candidate.plan)
    kept = {layer.index: layer for layer in candidate.plan.layers}
    places = range(len(spec.layers))
    return {
        "axis": axis,
        "recovery": candidate.recipe.name,
        "data_fraction": candidate.recipe.data_fraction,
        "keep": KeepMap(
            heads=tuple(len(kept[i].heads) if i in kept else 0 for i in places),
            channels=tuple(len(kept[i].channels) if i in kept else 0 for i in places),
            dense_heads=tuple(shape.heads for shape in spec.layers),
            dense_channels=tuple(shape.channels for shape in spec.layers),
        ).model_dump(mode="json"),
        "params": size.params,
        "fraction": size.fraction,
        "backbone_removed": size.backbone_removed,
        "seed": candidate.recipe.seed,
    }


def read_candidate(path: Path) -> Candidate:
    """Read a candidate that ``finish`` wrote."""
    return Candidate.from_dict(json.loads(path.read_text()))
