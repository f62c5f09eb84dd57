"""A whole search: what is known when it starts, when it ends, and where it was logged."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import FiniteFloat

from autoprune.tracking.records.base import Figure, Knob, Record
from autoprune.tracking.records.costs import Objective, objective_of, size_in
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.terms import Budget, Dense, Running
from autoprune.tracking.records.trial import TrialRecord


class RungRecord(Record):
    """How well a rung below full fidelity ranked trials as their end did, within bins of size.

    Measured on trials that nothing could stop: baselines, the exempt share of the others, and all
    where early stopping is off.
    """

    rung: int
    share: FiniteFloat  # of the recovery spent there
    trials: int = 0  # that it is measured on
    bins: int = 0  # of size
    correlation: Figure = None  # Spearman's, pooled over bins; None: too few trials to say
    low: Figure = None  # 95 % interval, Fisher's z
    high: Figure = None
    stops: FiniteFloat = 0.0  # share that it stopped at last; while the above is None, as it began


class StageRecord(Record):
    """A stage of a search: what it was forecast to take before launch, and what it took."""

    stage: str  # prepare, trials, confirm
    forecast: Figure = None  # seconds
    seconds: FiniteFloat  # over all sessions


class SearchSummary(Record):
    """A finished search, or one so far. Its JSON is what `front --json` prints."""

    dense: Dense
    budget: Budget
    points: tuple[FrontPoint, ...] = ()  # confirmed, by size; dominated and tied ones are marked
    name: str = ""
    objective: Objective = "params"  # what a size is, in the front and its hypervolume
    timed: bool = False  # whether latency is an objective beside it
    running: Running | None = None  # what memory and latency are said for
    baselines: tuple[FrontPoint, ...] = ()
    hypervolume: Figure = None  # under the means of the confirmed points, reference (1, 0)
    hypervolume_low: Figure = None  # its 95 % interval, over images and seeds
    hypervolume_high: Figure = None
    shrinkage: Figure = None  # retention lost from search to confirm, mean of the front's members
    shrinkage_low: Figure = None  # its 95 % interval, over these members
    shrinkage_high: Figure = None
    seconds: Figure = None  # over all sessions, without preparation: what --max-hours counts
    rungs: tuple[RungRecord, ...] = ()  # but the last
    groups: dict[str, tuple[str, ...]] = {}  # capability -> tasks
    floors: dict[str, FiniteFloat] = {}  # task or capability -> least share of the dense ability
    ended: str = ""  # why no more trials were launched
    stages: tuple[StageRecord, ...] = ()
    versions: dict[str, str] = {}

    @property
    def counted(self) -> str:
        """What the front is drawn over: the unit of sizes, and latency behind it if it counts."""
        return objective_of(self.objective, self.timed)

    @property
    def front(self) -> tuple[FrontPoint, ...]:
        """The points that none dominates and that meet the floors, smallest first."""
        free = [point for point in self.points if not point.dominated and not point.missed]
        return self.by_size(free)

    @property
    def below(self) -> tuple[FrontPoint, ...]:
        """The points that do not meet the floors, smallest first."""
        return self.by_size(point for point in self.points if point.missed)

    @property
    def nearest(self) -> FrontPoint | None:
        """The point that comes nearest to the floors, where none meets them."""
        if self.front or not self.below:
            return None
        return min(self.below, key=lambda point: sum(point.missed.values()))

    @property
    def stairs(self) -> tuple[FrontPoint, ...]:
        """The front without the points that are behind: each has a higher mean than the last.

        Where latency counts too, those that are on the front for their speed are left out.
        """
        found: list[FrontPoint] = []
        for point in self.front:
            higher = not found or point.retention.mean > found[-1].retention.mean
            if not point.behind and (higher or not self.timed):
                found.append(point)
        return tuple(found)

    @property
    def taken(self) -> float | None:
        """Seconds of all stages over all sessions, preparation included; None: none is noted."""
        return sum(stage.seconds for stage in self.stages) if self.stages else None

    def size(self, item: TrialRecord | FrontPoint | Dense | Budget) -> int:
        """Return a size in the objective's unit."""
        return size_in(item, self.objective)

    def by_size(self, points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
        """Return points with the smallest first, in the objective's unit."""
        return tuple(sorted(points, key=lambda point: (self.size(point), -point.retention.mean)))


class SearchInfo(Record):
    """What is known of a search when it starts; all that MLflow needs to file it."""

    name: str
    key: str  # tells this search from every other one anywhere, and stays on resume
    settings: dict[str, Knob] = {}  # model, sampler, seed, trials...: parameters of the parent run
    files: dict[str, str] = {}  # file name -> text: the space, the configuration
    versions: dict[str, str] = {}
    measured: dict[str, FiniteFloat] = {}  # what preparing it took, such as bytes of memory
    dense: Dense | None = None
    budget: Budget | None = None


class LoggedSearch(Record):
    """Where a search is found in MLflow: what links are made of."""

    uri: str
    experiment_id: str
    parent_run_id: str
    views: dict[str, str] = {}  # name of a saved view of the UI -> its share key
    runs: dict[int, str] = {}  # trial -> run id
