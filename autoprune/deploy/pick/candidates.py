"""The points of finished searches, with what each keeps and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from autoprune.deploy.pick.choose import Differ, Entry
from autoprune.deploy.pick.limits import Limit
from autoprune.deploy.source import kept_candidate
from autoprune.errors import AutoPruneError, did_you_mean

if TYPE_CHECKING:
    from autoprune.cost.deployment import Deployment
    from autoprune.cost.latency import Latency
    from autoprune.cost.memory import Memory
    from autoprune.deploy.pick.target import Target
    from autoprune.evaluation.floors import Floor
    from autoprune.evaluation.scores import TaskScores
    from autoprune.evaluation.seeds import SeedPrior
    from autoprune.models.loading import Inspected
    from autoprune.pruning.plan import PruningPlan
    from autoprune.search.compare import Finished
    from autoprune.search.fronts.confirm import Confirmed
    from autoprune.tracking.records.point import FrontPoint


@dataclass(frozen=True)
class Candidate:
    """A confirmed point.

    Attributes:
        search: it is from.
        point: as it was confirmed; its retention is by the prior of all searches here.
        answers: on the ``confirm`` split, one a seed.
        floors: floor -> share of the dense model's ability that is kept.
        memory: on the prompt, where it was asked for.
        latency: of a token, where it was asked for.
    """

    search: Finished
    point: FrontPoint
    answers: Confirmed
    floors: Mapping[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    latency: Latency | None = None

    @property
    def name(self) -> str:
        """Return what names it in a command, but for ``--home``."""
        return f"{self.search.store.name}:{self.point.trial}"

    @property
    def entry(self) -> Entry:
        """Return what the choice needs to know."""
        figures: dict[str, float] = {
            "retention": self.point.retention.mean,
            "params": float(self.point.params),
            "bytes": float(self.point.bytes or 0),
            **{f"floor {name}": share for name, share in self.floors.items()},
        }
        if self.memory is not None:
            figures["memory"] = float(self.memory.total)
        if self.latency is not None:
            figures["latency"] = self.latency.seconds
        return Entry(self.name, figures)


@dataclass(frozen=True)
class Pool:
    """All points that can be chosen, on one scale.

    Attributes:
        candidates: points and baselines; a baseline that several searches ran stands once.
        dense: the dense model's answers.
        prior: how far seeds scatter, learned from all of them.
        objective: ``params`` or ``bytes``: what a size is here.
    """

    candidates: tuple[Candidate, ...]
    dense: TaskScores
    prior: SeedPrior | None
    objective: str

    def differ(self) -> Differ:
        """Return the paired difference of two candidates, by their names; each is counted once."""
        from autoprune.evaluation.retention import paired_difference

        answers = {c.name: c.answers.scores for c in self.candidates}

        @cache
        def between(one: str, other: str) -> Any:
            return paired_difference(answers[one], answers[other], self.dense, prior=self.prior)

        return between


def read_pool(searches: Sequence[Finished]) -> Pool:
    """Return the points of searches, which must be of one dense model and the same questions.

    Raises:
        AutoPruneError: they are not; or none has a confirmed point.
    """
    from autoprune.evaluation.retention import bootstrap
    from autoprune.search.compare import check_same_exam
    from autoprune.search.fronts.area import answers_of
    from autoprune.search.fronts.confirm import scatter
    from autoprune.tracking.records.point import Retention

    first = searches[0]
    for other in searches[1:]:
        check_same_exam(first, other)
    runs = {answers_of(one): one for search in searches for one in search.confirmed}
    prior = scatter(list(runs.values()), first.dense)
    found: dict[Any, Candidate] = {}
    for search in searches:
        answered = {one.record.trial: one for one in search.confirmed}
        points = {p.trial: p for p in (*search.summary.points, *search.summary.baselines)}
        for trial, point in points.items():
            own = answered[trial]
            kept = bootstrap(own.scores, first.dense, prior=prior)
            again = Retention(mean=kept.mean, low=kept.low, high=kept.high, seeds=kept.seeds)
            shown = point.model_copy(update={"retention": again})
            # The same runs in two searches are one point.
            key = (answers_of(own), point.params, point.precision)
            found.setdefault(key, Candidate(search, shown, own))
    if not found:
        raise AutoPruneError(
            f"search {first.store.name!r} has no confirmed point: 'autoprune search --resume "
            f"{first.store.typed}' looks on"
        )
    sizes = {search.summary.objective for search in searches}
    # Bits do not show in parameters; a search over memory may have searched them, too.
    objective = "params" if sizes == {"params"} else "bytes"
    return Pool(tuple(found.values()), first.dense, prior, objective)


def read_floors(items: Sequence[str], searches: Sequence[Finished]) -> tuple[Floor, ...]:
    """Return the floors of the searches themselves, and those typed, which replace them.

    Raises:
        AutoPruneError: a floor names no task or capability of the searches, or is no share.
    """
    from autoprune.evaluation.capabilities import parse_pairs
    from autoprune.evaluation.floors import Floor, check_floors, floor_share, floors_of

    dense = searches[0].dense
    known: dict[str, tuple[str, ...]] = {}
    for search in searches:
        known |= {name: tuple(tasks) for name, tasks in search.summary.groups.items()}
    known |= {task.name: (task.name,) for task in dense.tasks}
    own = (
        floor
        for search in searches
        for floor in floors_of(search.summary.floors, search.summary.groups, search.dense)
    )
    # Of several searches with a floor of one name the highest holds, which comes last.
    found = {floor.name: floor for floor in sorted(own, key=lambda floor: floor.least)}
    for name, text in parse_pairs(items, "--floor", "pope=0.9"):
        if name not in known:
            raise AutoPruneError(
                f"--floor {name}={text}: no such task or capability in these searches"
                f"{did_you_mean(name, known)}"
            )
        found[name] = Floor(name, known[name], floor_share(name, text))
    check_floors(found.values(), dense)
    return tuple(found.values())


def with_floors(pool: Pool, floors: Sequence[Floor]) -> tuple[Pool, tuple[Limit, ...]]:
    """Return the points with what each keeps for the floors, and the floors as limits."""
    from dataclasses import replace

    from autoprune.evaluation.floors import kept_of

    def kept(candidate: Candidate, floor: Floor) -> float:
        shares = [kept_of(floor.tasks, one, pool.dense) or 0.0 for one in candidate.answers.scores]
        return sum(shares) / len(shares)

    candidates = tuple(
        replace(c, floors={floor.name: kept(c, floor) for floor in floors}) for c in pool.candidates
    )
    limits = tuple(
        Limit("--floor", f"{f.name}={f.least:g}", f"floor {f.name}", f.least, most=False)
        for f in floors
    )
    return replace(pool, candidates=candidates), limits


def with_costs(pool: Pool, dense: Inspected, prompt: Deployment, target: Target | None) -> Pool:
    """Return the points with their memory, and with their latency where a device is named.

    Args:
        pool: the points.
        dense: the dense model, inspected.
        prompt: that both are said for.
        target: the device.
    """
    from dataclasses import replace

    from autoprune.cost.memory import memory_of

    plans = [(plan_of(c, dense), c.point.precision) for c in pool.candidates]
    times: Sequence[Latency | None] = [None for _ in plans]
    if target is not None:
        times = target.latencies(plans)
    made = (
        replace(candidate, memory=memory_of(dense.spec, *plan, prompt), latency=latency)
        for candidate, plan, latency in zip(pool.candidates, plans, times, strict=True)
    )
    return replace(pool, candidates=tuple(made))


def plan_of(candidate: Candidate, dense: Inspected) -> PruningPlan:
    """Return a point's plan: the one that was kept, else one of the same counts.

    Raises:
        AutoPruneError: neither is known, as earlier versions noted no counts.
    """
    from autoprune.cost.estimate import shapes_of
    from autoprune.pruning.plan import LayerPlan, PruningPlan

    store, trial = candidate.search.store, candidate.point.trial
    kept = kept_candidate(store.directory / "kept" / f"{trial:04d}", candidate.name)
    if kept is not None:
        return kept.plan
    keep = candidate.search.records[trial].keep
    if keep is None:
        raise AutoPruneError(
            f"what {candidate.name} keeps of each layer is not recorded, so neither its memory nor "
            "its speed can be told: leave --device, --max-memory and --max-latency out"
        )
    spec = dense.spec
    shapes = shapes_of(spec, keep.heads, keep.channels)
    layers = tuple(
        LayerPlan(place, tuple(range(shape.heads)), tuple(range(shape.channels)))
        for place, shape in enumerate(shapes)
        if shape.heads or shape.channels
    )
    return PruningPlan(spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, layers)
