"""Several finished searches beside each other, as plain data; what `compare --json` prints.

Intervals are at 95 % each, over images and seeds; differences are paired over images and are
taken to the first search.
"""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from autoprune.tracking.records.base import Figure, Record
from autoprune.tracking.records.costs import Objective
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense


class Range(Record):
    """A figure and its 95 % interval."""

    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @property
    def verdict(self) -> str:
        """What a difference says: better, worse, or tied where the interval holds zero."""
        if self.low <= 0.0 <= self.high:
            return "tied"
        return "better" if self.mean > 0 else "worse"


class Compared(Record):
    """One search among others.

    Attributes:
        summary: its confirmed result; its points and baselines are re-scored against the dense
            model's answers that all are compared by.
        hypervolume: under the means of its confirmed points, reference (1, 0).
        gain: its hypervolume minus that of the first search; None for the first.
        trials: that ended.
        seconds: of all its stages over all sessions, preparation and confirmation included; None
            where an earlier version noted none.
        flops: floating-point operations of all its trials, stopped ones included; the
            confirmation apart.
    """

    name: str
    summary: SearchSummary
    hypervolume: Range
    gain: Range | None = None
    trials: int
    seconds: Figure = None
    flops: Figure = None


class Held(Record):
    """The best confirmed point of a search that is no larger than a size.

    Attributes:
        trial, share: of the point.
        retention: of the point, by the scatter of seeds in all searches that are compared, so that
            runs which several share have one interval; ``summary`` has the search's own.
        gain: its retention minus that of the first search's; None for the first.
        latency: seconds a token, of the kind that all searches have.
        latency_kind: measured or modelled.
    """

    trial: int
    share: FiniteFloat
    retention: Retention
    gain: Range | None = None
    latency: Figure = None
    latency_kind: str = ""


class AtSize(Record):
    """One size (share of the dense model), and what each search holds there, in their order."""

    share: FiniteFloat
    held: tuple[Held, ...]


class Comparison(Record):
    """Searches of one dense model, tasks, confirm images and objective.

    Attributes:
        dense: the dense model.
        objective: what a size is.
        searches: in the order asked for; the first is what others are compared to.
        sizes: shared sizes, the smallest first; empty where no size is covered by all.
        baselines: of all searches; one that several ran at one size stands once. Their intervals
            are made as those of ``Held``.
        differs: setting -> its value in each search, where they are not all equal.
        notes: what else is to be known before figures are believed.
    """

    dense: Dense
    objective: Objective
    searches: tuple[Compared, ...]
    sizes: tuple[AtSize, ...] = ()
    baselines: tuple[FrontPoint, ...] = ()
    differs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Every budget that a search had, each once, the smallest first."""
        found = {one.summary.size(one.summary.budget): one.summary.budget for one in self.searches}
        return tuple(found[size] for size in sorted(found))
