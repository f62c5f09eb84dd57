"""The seam between a search and what is searched.

The driver knows a :class:`Problem`, a worker knows a :class:`Bench`. The real ones are made of
``autoprune.pipeline``; tests inject toys.

Life of a search, on the driver: ``Problem.prepare`` once; ``Prepared.work`` and
``Prepared.arrays`` travel to the workers; ``Prepared.finish`` confirms the front. On a worker,
once a process: ``Work.open(arrays, resources)`` gives a bench; for each trial ``Bench.start``
gives a run; then ``TrialRun.rung`` for each rung, with ``save`` and ``load`` around a pause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autoprune.pruning.layout import Layout
from autoprune.resources import Resources
from autoprune.search.knobs.space import Space
from autoprune.search.knobs.table import Value
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import TrialRecord

if TYPE_CHECKING:
    from autoprune.search.candidates.narrow import Narrowed
    from autoprune.search.records.stages import Forecast
    from autoprune.search.records.store import SearchStore
    from autoprune.search.settings import SearchSettings


@dataclass(frozen=True)
class Refinement:
    """Where a refined trial starts, and where it got to.

    Attributes:
        start: layout of its parent; None where the knobs say it.
        layout: that it was found to have before it was interrupted; None: still to be found.
        plan: identity of its parent's plan, as recorded.
    """

    start: Layout | None = None
    layout: Layout | None = None
    plan: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values that :meth:`from_dict` reads."""
        start, layout = (part and part.to_dict() for part in (self.start, self.layout))
        return {"start": start, "layout": layout, "plan": self.plan}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Refinement:
        """Read it back."""
        start, layout = (
            part and Layout.from_dict(part) for part in (values["start"], values["layout"])
        )
        return cls(start, layout, values["plan"])


@dataclass(frozen=True)
class TrialJob:
    """One trial to run: its number, a value for every knob, and its seed.

    The candidate of a ``refinement`` is not what the knobs decode to, but near it.
    """

    number: int
    knobs: Mapping[str, Value]
    seed: int
    refinement: Refinement | None = None


class Rung(Protocol):
    """What a rung measured; ``pipeline.RungResult`` is one."""

    @property
    def share(self) -> float:
        """Share of the recovery spent, 0..1."""

    @property
    def proxy_kl(self) -> float | None:
        """Nats an answer token to the dense model, where measured."""

    @property
    def retention(self) -> float | None:
        """Retention, where evaluated."""

    @property
    def retention_raw(self) -> float | None:
        """The raw ratio beside it."""

    @property
    def per_task(self) -> Mapping[str, float]:
        """Task -> score, 0..1."""

    @property
    def missed(self) -> Mapping[str, float]:
        """Floor -> by how much it is below, where it is."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Stage -> seconds of this rung."""

    @property
    def flops(self) -> float:
        """Floating-point operations of this rung."""


class TrialRun(Protocol):
    """One candidate under way."""

    def describe(self) -> Mapping[str, Any]:
        """Return the fields of ``TrialRecord`` that are known before any rung.

        ``params`` and ``fraction`` must be among them; ``axis`` should be.
        """

    def rung(self, share: float, evaluate: bool = True) -> Rung:
        """Spend the recovery up to ``share`` in all; score the proxy or evaluate."""

    def save(self, directory: Path) -> None:
        """Write what ``load`` needs to go on from the last rung."""

    def load(self, directory: Path) -> None:
        """Go on from what ``save`` wrote."""


class Bench(Protocol):
    """A worker's tools: everything prepared, joined once a process."""

    def start(self, job: TrialJob) -> TrialRun:
        """Decode the knobs and build the candidate."""


class Work(Protocol):
    """Small and picklable; opened once in each worker process."""

    def open(self, arrays: Mapping[str, np.ndarray], resources: Resources) -> Bench:
        """Join the shared arrays, which are read-only, into a bench."""


@dataclass(frozen=True)
class Baseline:
    """A named configuration that is run before anything is sampled."""

    name: str
    knobs: Mapping[str, Value]


class Pool(Protocol):
    """Workers that take calls besides trials, as a
    :class:`~autoprune.search.workers.pool.WorkerPool` does.
    """

    def run(
        self,
        function: Callable[[Any, Any], Any],
        payloads: Sequence[Any],
        on_done: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Return ``function(bench, payload)`` for each payload, in order."""


class Prepared(Protocol):
    """A problem, ready to be searched."""

    @property
    def work(self) -> Work:
        """What travels to the workers by pickle."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What travels to the workers by shared memory."""

    @property
    def baselines(self) -> Sequence[Baseline]:
        """Run first, never stopped early."""

    @property
    def dense(self) -> Dense:
        """The model before pruning."""

    @property
    def budget(self) -> Budget:
        """The bound on the size."""

    @property
    def confirm_share(self) -> float:
        """Questions of a confirmation's scoring, against those that a whole trial is asked."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What another search must share to learn from this one: plain JSON values."""

    @property
    def measured(self) -> Mapping[str, float]:
        """What preparing took, by name."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of what a trial's result depends on."""

    def finish(
        self,
        records: Sequence[TrialRecord],
        pool: Pool,
        store: SearchStore,
        on_confirm: Callable[[int, int], None],
    ) -> SearchSummary:
        """Confirm the front of ``records`` on the pool's workers and sum the search up."""

    def timed(
        self,
        summary: SearchSummary,
        records: Sequence[TrialRecord],
        on_stage: Callable[[str], None],
        on_warning: Callable[[str], None],
    ) -> SearchSummary:
        """Return the summary with what is measured on this machine, now that no worker runs."""


class Problem(Protocol):
    """What can be searched."""

    def narrow(self, settings: SearchSettings, space: Space) -> Narrowed:
        """Return the space without knobs that have no effect here; by the model's files alone.

        Raises:
            AutoPruneError: for a space that does not fit the model.
        """

    def forecast(self, settings: SearchSettings, space: Space) -> Forecast | None:
        """Say what a search will take, before anything is started; None where nothing can.

        Raises:
            AutoPruneError: for settings that do not fit the model.
        """

    def prepare(
        self, settings: SearchSettings, space: Space, on_stage: Callable[[str], None]
    ) -> Prepared:
        """Load, measure and cache everything that all trials share.

        Check the settings first: Ray starts, beside the work, at the first call of ``on_stage``.

        Raises:
            AutoPruneError: for settings that do not fit the model.
        """


@dataclass(frozen=True)
class Measured:
    """A plain :class:`Rung`."""

    share: float
    proxy_kl: float | None = None
    retention: float | None = None
    retention_raw: float | None = None
    per_task: Mapping[str, float] = field(default_factory=dict)
    missed: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
