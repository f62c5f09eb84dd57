"""Finished searches beside each other: their hypervolumes, and what each holds at shared sizes.

All of it comes from the answers that the confirmations left in the searches' directories, so a
difference is paired image by image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.errors import AutoPruneError
from autoprune.evaluation.floors import floors_of
from autoprune.evaluation.retention import Interval, bootstrap
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior
from autoprune.search.finish import DENSE
from autoprune.search.fronts.area import Weighted, answers_of, difference, stairs, total
from autoprune.search.fronts.confirm import Confirmed, front_points, meeting, scatter
from autoprune.search.options import flag
from autoprune.search.records.store import SearchStore
from autoprune.search.settings import FREE
from autoprune.tracking.comparison import AtSize, Compared, Comparison, Held, Range
from autoprune.tracking.records.costs import share_in, size_in
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.timings import same_place, seconds_of, shared_kind

HERE = (FREE | {"storage"}) - {"trials", "max_hours"}
"""Settings of the machine and the place: they are not why one search is better than another."""

NOTHING = Range(mean=0.0, low=0.0, high=0.0)


@dataclass(frozen=True)
class Finished:
    """A finished search with the answers that its figures are made of.

    Attributes:
        store: its directory.
        summary: its result.
        records: of its trials, by number.
        identity: content hash of the dense model.
        dense: the dense model's answers on the ``confirm`` split.
        confirmed: points and baselines with their answers.
    """

    store: SearchStore
    summary: SearchSummary
    records: dict[int, TrialRecord]
    identity: str
    dense: TaskScores
    confirmed: tuple[Confirmed, ...]


def read_finished(store: SearchStore, summary: SearchSummary) -> Finished:
    """Read what a search's confirmation left.

    Raises:
        AutoPruneError: it was confirmed by a version that left too little, or files are gone.
    """
    folder, records = store.directory / "confirm", store.records()
    again = f"'autoprune search --resume {store.typed} --trials {len(records) + 1}' confirms anew"
    try:
        kept = json.loads((folder / DENSE).read_text())
        identity, dense = kept["identity"], TaskScores.from_dict(kept["scores"])
    except (OSError, ValueError, KeyError, TypeError):
        raise AutoPruneError(
            f"search {store.name!r} has no answers of the dense model in {folder / DENSE}, as "
            f"earlier versions kept none: {again}"
        ) from None
    confirmed = []
    for trial in sorted({p.trial for p in (*summary.points, *summary.baselines)}):
        try:
            runs = tuple(
                TaskScores.from_dict(json.loads(path.read_text()))
                for path in sorted(folder.glob(f"{trial:04d}-*.json"), key=_seed)
            )
            if not runs:
                raise FileNotFoundError
            confirmed.append(Confirmed(records[trial], runs))
        except (OSError, ValueError, KeyError, TypeError):
            raise AutoPruneError(
                f"the confirmed answers of trial {trial} of search {store.name!r} cannot be read "
                f"in {folder}: {again}"
            ) from None
    return Finished(store, summary, records, identity, dense, tuple(confirmed))


def _seed(path: object) -> int:
    return int(str(path).removesuffix(".json").rpartition("-")[2])


def compare_searches(searches: Sequence[Finished]) -> Comparison:
    """Return the searches beside each other, in their order.

    Raises:
        AutoPruneError: they are of different dense models, tasks, images or objectives.
    """
    first = searches[0]
    for other in searches[1:]:
        check_comparable(first, other)
    # One dense model on one machine answers alike; elsewhere a bit may flip. One set decides.
    dense, objective = first.dense, first.summary.counted
    # Runs that several searches share say once how far seeds scatter. By one prior for all, a run
    # has one interval, whichever search shows it.
    runs = {answers_of(one): one for search in searches for one in search.confirmed}
    prior = scatter(list(runs.values()), dense)
    points = [
        _as_timed(
            s,
            front_points(
                s.confirmed,
                dense,
                objective=objective,
                groups=s.summary.groups,
                floors=floors_of(s.summary.floors, s.summary.groups, s.dense),
            ),
        )
        for s in searches
    ]
    bearing = [
        stairs(meeting(s.confirmed, own), dense, objective)
        for s, own in zip(searches, points, strict=True)
    ]
    return Comparison(
        dense=first.summary.dense,
        objective=first.summary.objective,
        searches=tuple(
            Compared(
                name=search.store.name,
                summary=_again(search, own),
                # By its own runs alone, so that it is the figure that 'front' shows.
                hypervolume=_range(total(steps, dense, scatter(search.confirmed, dense))),
                gain=_range(difference(steps, bearing[0], dense, prior)) if place else None,
                seconds=search.summary.taken,
                trials=sum(r.state != "running" for r in search.records.values()),
                flops=sum(r.flops or 0.0 for r in search.records.values()) or None,
            )
            for place, (search, own, steps) in enumerate(
                zip(searches, points, bearing, strict=True)
            )
        ),
        sizes=_at_sizes(searches, points, dense, prior),
        baselines=once(_baselines(searches, points, dense, prior), objective),
        differs=_differs(searches),
        notes=_notes(searches),
    )


def check_comparable(a: Finished, b: Finished) -> None:
    """Refuse two searches whose figures do not stand on one scale.

    Raises:
        AutoPruneError: names the searches and what differs.
    """
    if (one := a.summary.counted) != (other := b.summary.counted):
        raise _refusal(a, b, "objectives", one, other)
    placed = a.summary.timed or a.summary.objective == "memory"
    if placed and not same_place([a.summary, b.summary]):
        raise _refusal(a, b, "prompts or devices", _place(a.summary), _place(b.summary))
    check_same_exam(a, b)


def _place(summary: SearchSummary) -> str:
    """Return what memory and latency are said for; this machine is another one elsewhere."""
    running = summary.running
    if running is None:
        return "none"
    return f"{running.said} ({running.machine})" if running.machine else running.said


def check_same_exam(a: Finished, b: Finished) -> None:
    """Refuse two searches that were not confirmed by the same questions to the same dense model.

    Raises:
        AutoPruneError: names the searches and what differs.
    """
    if (names := list(a.dense.by_task)) != (others := list(b.dense.by_task)):
        raise _refusal(a, b, "tasks", ", ".join(names), ", ".join(others))
    if a.identity != b.identity:  # one model may go by several paths
        raise _refusal(a, b, "dense models", _model(a), _model(b))
    for x, y in zip(a.dense.tasks, b.dense.tasks, strict=True):
        if x.docs.tolist() != y.docs.tolist():
            say = f"{len(x.docs)} and {len(y.docs)} of task {x.name}"
            raise AutoPruneError(
                f"searches {a.store.name!r} and {b.store.name!r} were confirmed on different "
                f"questions ({say}): compare searches of one --confirm-samples"
            )


def _model(search: Finished) -> str:
    return f"{search.store.settings().model}, hash {search.identity}"


def _refusal(a: Finished, b: Finished, what: str, one: str, other: str) -> AutoPruneError:
    return AutoPruneError(
        f"searches {a.store.name!r} and {b.store.name!r} have different {what} ({one}; {other}), "
        f"and their figures no common scale: compare searches of one"
    )


def shared_sizes(low: float, high: float) -> list[float]:
    """Return the sizes to compare at, shares of the dense model.

    Steps of 5 % of the dense model, or of 10 % where those would be more than ten, and the upper
    end itself.
    """
    if high < low:
        return []
    step = 0.05 if high - low <= 0.5 else 0.1
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    sizes = [round(step * i, 4) for i in range(first, last + 1)]
    if not sizes or high - sizes[-1] > 0.1 * step:
        sizes.append(high)
    return sizes


def _at_sizes(
    searches: Sequence[Finished],
    points: Sequence[Sequence[FrontPoint]],
    dense: TaskScores,
    prior: SeedPrior | None,
) -> tuple[AtSize, ...]:
    objective = searches[0].summary.objective
    scores = [{one.record.trial: one for one in search.confirmed} for search in searches]

    def share(point: FrontPoint) -> float:
        return share_in(point, objective) or 0.0

    kind = shared_kind([search.summary for search in searches])
    low = max(min(map(share, own)) for own in points)
    high = min(_budget_share(search.summary) for search in searches)
    rows = []
    for size in shared_sizes(low, high):
        best = [
            max((p for p in own if share(p) <= size + 1e-9), key=lambda p: p.retention.mean)
            for own in points
        ]
        reference: list[Weighted] = [(scores[0][best[0].trial], 1.0)]
        held = []
        for place, point in enumerate(best):
            gain = None
            if place:
                mine: list[Weighted] = [(scores[place][point.trial], 1.0)]
                gain = _range(difference(mine, reference, dense, prior))
            held.append(
                Held(
                    trial=point.trial,
                    share=share(point),
                    retention=_retention(scores[place][point.trial], dense, prior),
                    gain=gain,
                    latency=seconds_of(point, kind),
                    latency_kind=kind,
                )
            )
        rows.append(AtSize(share=size, held=tuple(held)))
    return tuple(rows)


def _baselines(
    searches: Sequence[Finished],
    points: Sequence[Sequence[FrontPoint]],
    dense: TaskScores,
    prior: SeedPrior | None,
) -> list[FrontPoint]:
    """Return every search's baselines, with intervals that do not depend on whose they are."""
    found = []
    for search, own in zip(searches, points, strict=True):
        scores = {one.record.trial: one for one in search.confirmed}
        found += [
            point.model_copy(update={"retention": _retention(scores[point.trial], dense, prior)})
            for point in own
            if point.baseline
        ]
    return found


def _retention(one: Confirmed, dense: TaskScores, prior: SeedPrior | None) -> Retention:
    found = bootstrap(one.scores, dense, prior=prior)
    return Retention(mean=found.mean, low=found.low, high=found.high, seeds=found.seeds)


def _budget_share(summary: SearchSummary) -> float:
    whole = summary.size(summary.dense)
    return summary.size(summary.budget) / whole if whole else summary.budget.fraction


def _range(interval: Interval | None) -> Range:
    """Return an interval as plain data; nothing that differs is a difference of zero."""
    if interval is None:
        return NOTHING
    return Range(mean=interval.mean, low=interval.low, high=interval.high)


def _again(search: Finished, points: Sequence[FrontPoint]) -> SearchSummary:
    """Return a summary with its points as they score against the shared dense answers."""
    shown = {p.trial for p in search.summary.points}
    return search.summary.model_copy(
        update={
            "points": tuple(p for p in points if p.trial in shown),
            "baselines": tuple(p for p in points if p.baseline is not None),
        }
    )


def _as_timed(search: Finished, points: Sequence[FrontPoint]) -> tuple[FrontPoint, ...]:
    """Return points with the times that the search measured, which no answers tell."""
    times = {p.trial: p.measured for p in (*search.summary.points, *search.summary.baselines)}
    return tuple(p.model_copy(update={"measured": times.get(p.trial)}) for p in points)


def once(points: Sequence[FrontPoint], objective: str) -> tuple[FrontPoint, ...]:
    """Return baselines without those of the same name and size, smallest first."""
    found: dict[tuple[str | None, int], FrontPoint] = {}
    for point in points:
        found.setdefault((point.baseline, size_in(point, objective)), point)
    return tuple(sorted(found.values(), key=lambda p: share_in(p, objective) or 0.0))


def _differs(searches: Sequence[Finished]) -> dict[str, tuple[str, ...]]:
    """Return the settings that are not the same in all, by option."""
    values = [search.store.settings().model_dump(mode="json") for search in searches]
    return {
        flag(field): tuple(_shown(value[field]) for value in values)
        for field in values[0]
        if field not in HERE and any(value[field] != values[0][field] for value in values)
    }


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _notes(searches: Sequence[Finished]) -> tuple[str, ...]:
    first = searches[0]
    other = [
        search.store.name
        for search in searches[1:]
        if search.dense.to_dict()["tasks"] != first.dense.to_dict()["tasks"]
    ]
    notes = []
    if other:
        notes.append(
            f"the dense model answered otherwise in {', '.join(other)} (another machine or other "
            f"libraries); all are measured against its answers in {first.store.name}"
        )
    running = {search.store.name: search.summary.running for search in searches}
    kind = shared_kind([search.summary for search in searches])
    if kind and (one := first.summary.running) is not None:
        where = f"{one.prompt} on {one.machine}" if kind == "measured" else one.said
        notes.append(f"a token's time is {kind}, for {where}")
    elif all(one is not None and one.device for one in running.values()):
        said = "; ".join(f"in {s.store.name} {_place(s.summary)}" for s in searches)
        notes.append(f"a token's time is left out, as it is said for other things: {said}")
    return tuple(notes)
