"""What a search searches: the pipeline of a vision-language model, behind the seam of ``work``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from autoprune.cost.budget import parse_budget
from autoprune.errors import AutoPruneError
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models.shape import BackboneSpec
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.prepare import Preparation, inspect, prepare
from autoprune.pruning.allocation import Allocation, reachable
from autoprune.resources import Resources
from autoprune.search.baselines import baselines, room
from autoprune.search.bench import TrialWork
from autoprune.search.decode import DecodeContext
from autoprune.search.finish import Ending, finish
from autoprune.search.pool import WorkerPool
from autoprune.search.settings import SearchSettings
from autoprune.search.space import Space
from autoprune.search.store import SearchStore
from autoprune.search.work import Baseline
from autoprune.tracking.records import Budget, Dense, SearchSummary, TrialRecord
from autoprune.zoo import EMBEDDED

SMALLEST_SHARE = 0.6
"""Sizes are sampled from this share of the budget up to it."""

REAL_CHANNELS, REAL_MULTIPLE = 1024, 64
"""MLPs of that many channels or more are kept in multiples of 64."""

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
    stock = settings.deployable == "stock"
    multiple = channel_multiple(settings, spec)
    least, _ = reachable(spec, Allocation(axis="hybrid", stock=stock), multiple)
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


def channel_multiple(settings: SearchSettings, spec: BackboneSpec) -> int:
    """Return what widths are multiples of: as set, or what suits the model's size.

    Matrix products of real models run in tiles; widths beside them cost as much as the next
    multiple. At a few channels a layer, multiples would leave nothing to choose.
    """
    if settings.multiple is not None:
        return settings.multiple
    return REAL_MULTIPLE if max(s.channels for s in spec.layers) >= REAL_CHANNELS else 1


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
        return ("autoprune.search.bench", "autoprune.evaluation.harness", "peft")

    def prepare(
        self, settings: SearchSettings, space: Space, on_stage: Callable[[str], None]
    ) -> PreparedSearch:
        """Check the settings against the model, then measure and cache what trials share."""
        sizes = read_sizes(settings, inspect(settings.model).spec)
        wanted = preparation(settings)
        resources = Resources(
            cpus=settings.workers * settings.cpus_per_trial, gpus=settings.gpus_per_trial
        )
        # Machines of a joined cluster may not see the model's files: there arrays travel.
        local = settings.ray_address is None
        cache = Path(settings.home) / "cache"
        assets = prepare(wanted, cache, resources, on_stage, in_place=local)
        context = DecodeContext(
            spec=assets.spec,
            importance=assets.importance,
            min_params=sizes.smallest,
            max_params=sizes.budget.params,
            train_samples=len(assets.train),
            max_recovery_samples=settings.max_recovery_samples,
            data_fraction=settings.data_fraction,
            multiple=channel_multiple(settings, assets.spec),
            stock=settings.deployable == "stock",
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

    @property
    def measured(self) -> Mapping[str, float]:
        """Most memory that the importance pass held, in GiB."""
        return {"importance_peak_gib": self.assets.importance.peak_bytes / 2**30}

    def finish(
        self,
        records: Sequence[TrialRecord],
        pool: WorkerPool,
        store: SearchStore,
        on_confirm: Callable[[int, int], None],
    ) -> SearchSummary:
        """Confirm the front and the baselines, and sum the search up."""
        ending = Ending(
            settings=self.settings,
            scores=self.assets.exams["confirm"].dense,
            dense=self.dense,
            budget=self.budget,
            versions=self.versions,
        )
        return finish(ending, records, pool, store, on_confirm)
