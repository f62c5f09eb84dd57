"""What a search searches: the pipeline of a vision-language model, behind the seam of ``work``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cost.bytes import dense_bytes
from autoprune.cost.devices import HERE
from autoprune.evaluation.floors import Floor, check_floors, groups_of, read_floors
from autoprune.models.families import wrapper_of
from autoprune.models.loading import Inspected
from autoprune.models.precision import PRECISIONS, precision_beside
from autoprune.pipeline.assets import Assets, Exam
from autoprune.pipeline.prepare import (
    TRAIN_IMAGES,
    Preparation,
    inspect,
    prepare,
    working_precision,
)
from autoprune.resources import Resources
from autoprune.search.candidates.costs import running_of, said_of
from autoprune.search.candidates.decode import DecodeContext
from autoprune.search.candidates.narrow import Narrowed, narrow
from autoprune.search.candidates.sizes import channel_multiple, kept_share, read_sizes
from autoprune.search.exams import metric_notes, task_facts, tasks_of
from autoprune.search.finish import Ending, finish
from autoprune.search.knobs.space import Space
from autoprune.search.preflight import data_notes
from autoprune.search.records.stages import Forecast
from autoprune.search.records.store import SearchStore
from autoprune.search.settings import SearchSettings
from autoprune.search.starts.baselines import known
from autoprune.search.starts.warm import of_settings
from autoprune.search.timed import timed_here
from autoprune.search.trial.bench import TrialWork
from autoprune.search.trial.forecast import forecast, set_mark
from autoprune.search.work import Baseline, Pool
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import TrialRecord
from autoprune.zoo import splits_of

_VERSIONED = ("autoprune", "torch", "transformers", "peft", "lmms-eval", "optuna", "ray")


def preparation(settings: SearchSettings) -> Preparation:
    """Return what a search has to prepare."""
    return Preparation(
        model=settings.model,
        tasks=tasks_of(settings),
        splits=(
            ("search", settings.search_samples),
            ("confirm", settings.confirm_samples),
        ),
        cache_limit=settings.cache_bytes,
        **_of_data(settings),
    )


def _of_data(settings: SearchSettings) -> dict[str, Any]:
    """Return what a preparation says of a user's data.

    Of a large set as much is read as trials of this search can tell apart.
    """
    data = settings.data_spec
    if data is None:
        return {}
    splits = splits_of(data)
    most = max(TRAIN_IMAGES, settings.max_recovery_samples)
    return {
        "data": data,
        "train_images": min(most, splits.size("train")),
        "calibration_images": splits.size("calibration"),
    }


def narrow_for(settings: SearchSettings, space: Space, dense: Inspected) -> Narrowed:
    """Return the space that is worth sampling on a model that was inspected."""
    vision = wrapper_of(dense.config).projector is not None
    found = narrow(space, settings, dense.spec, working_precision(dense), vision, dense.config)
    notes = (*found.notes, *metric_notes(tasks_of(settings)), *data_notes(settings, dense))
    return replace(found, notes=notes)


class PipelineProblem:
    """The default :class:`~autoprune.search.work.Problem`."""

    @property
    def modules(self) -> Sequence[str]:
        """Modules that workers import while the driver prepares."""
        return ("autoprune.search.trial.bench", "autoprune.evaluation.harness", "peft")

    def narrow(self, settings: SearchSettings, space: Space) -> Narrowed:
        """Return the space without knobs that have no effect on the model."""
        return narrow_for(settings, space, inspect(settings.model))

    def forecast(self, settings: SearchSettings, space: Space) -> Forecast:
        """Say what the search will take on this machine."""
        found = inspect(settings.model)
        sizes = read_sizes(settings, found.spec, working_precision(found), found.config)
        return forecast(settings, space, preparation(settings), found, sizes)

    def prepare(
        self, settings: SearchSettings, space: Space, on_stage: Callable[[str], None]
    ) -> PreparedSearch:
        """Check the settings against the model, then measure and cache what trials share."""
        found = inspect(settings.model)
        sizes = read_sizes(settings, found.spec, working_precision(found), found.config)
        wanted = preparation(settings)
        resources = Resources(
            cpus=settings.workers * settings.cpus_per_trial, gpus=settings.gpus_per_trial
        )
        # Machines of a joined cluster may not see the model's files: there arrays travel.
        local = settings.ray_address is None
        cache = Path(settings.home) / "cache"

        def check(exam: Exam) -> None:
            check_floors(read_floors(settings.floors, exam.tasks), exam.dense)

        assets = prepare(wanted, cache, resources, on_stage, in_place=local, check=check)
        set_mark(settings, wanted)
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
            precision=assets.precision,
            spans=sizes.spans,
            bounds=sizes.bounds,
            in_memory=sizes.in_memory,
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
        settings = self.settings
        return TrialWork(self._parts[0], self.context, self.space, settings.rung_share, self.floors)

    @property
    def floors(self) -> tuple[Floor, ...]:
        """What of the dense model's ability has to stay."""
        return read_floors(self.settings.floors, self.assets.exams["search"].tasks)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What travels to the workers by shared memory."""
        return self._parts[1]

    @property
    def baselines(self) -> Sequence[Baseline]:
        """The study's recommendations and uniform cuts, then starting points of our own."""
        return known(self.space, self._removed_at, self.settings)

    def _removed_at(self, size: float) -> float:
        """Return the share of the backbone removed at a value of the knob ``size``."""
        if self.context.spans:
            first = self.settings.precisions[0]  # that of the baselines
            precision = precision_beside(first, self.context.precision)
            low, high = self.context.spans[precision]
            prompt = None
            if self.context.bounds is not None and self.context.in_memory:
                prompt = self.context.bounds.prompt
            return 1 - kept_share(self.context.spec, precision, low + size * (high - low), prompt)
        span = self.context.max_params - self.context.min_params
        spec = self.context.spec
        kept = self.context.min_params + size * span - spec.outside_params
        return 1 - kept / spec.backbone_params

    @property
    def confirm_share(self) -> float:
        """Questions of the ``confirm`` exam, against those of ``search``: as many as there are."""
        exams = self.assets.exams
        return exams["confirm"].dense.questions / exams["search"].dense.questions

    @property
    def dense(self) -> Dense:
        """The model before pruning, scored on the ``confirm`` split."""
        scores = self.assets.exams["confirm"].dense
        spec = self.assets.spec
        return Dense(
            params=spec.total_params,
            bytes=dense_bytes(spec, self.context.precision),
            **running_of(self.context.bounds, None, self.context.precision),
            precision=self.context.precision,
            scores=scores.by_task,
        )

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of what a trial's result depends on."""
        names = list(_VERSIONED)
        if any(PRECISIONS[name].storage for name in self.settings.precisions):
            names.append("torchao")
        return {name: version(name) for name in names}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What another search must share to learn from this one, and the range of sizes."""
        sizes = {"params": [self.context.min_params, self.context.max_params]}
        for name in self.settings.precisions:
            if self.context.spans:
                sizes[name] = list(
                    self.context.spans[precision_beside(name, self.context.precision)]
                )
        return {
            "dense": self.assets.identity,
            "tasks": task_facts(tasks_of(self.settings)),
            "max_recovery_samples": self.settings.max_recovery_samples,
            "objective": self.settings.counted,
            **of_settings(self.settings),
            "multiple": self.context.multiple,
            "sizes": sizes,
        }

    @property
    def measured(self) -> Mapping[str, float]:
        """Most memory that the importance pass held, in GiB."""
        return {"importance_peak_gib": self.assets.importance.peak_bytes / 2**30}

    def finish(
        self,
        records: Sequence[TrialRecord],
        pool: Pool,
        store: SearchStore,
        on_confirm: Callable[[int, int], None],
    ) -> SearchSummary:
        """Confirm the front and the baselines, and sum the search up."""
        ending = Ending(
            settings=self.settings,
            scores=self.assets.exams["confirm"].dense,
            identity=self.assets.identity,
            dense=self.dense,
            budget=self.budget,
            versions=self.versions,
            groups=groups_of(self.assets.exams["confirm"].tasks),
            floors=self.floors,
            running=said_of(self.context.bounds),
        )
        return finish(ending, records, pool, store, on_confirm)

    def timed(
        self,
        summary: SearchSummary,
        records: Sequence[TrialRecord],
        on_stage: Callable[[str], None],
        on_warning: Callable[[str], None],
    ) -> SearchSummary:
        """Measure the time of a token, where the search was for this machine."""
        bounds = self.context.bounds
        if self.settings.device != HERE or bounds is None:
            return summary
        on_stage("timing the front on this machine")
        return timed_here(summary, records, bounds, self.assets.config, on_warning)
