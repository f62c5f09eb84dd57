"""Confirmation: which points are believed, on images that the search never saw.

A search picks the best of many noisy scores, so its own figures flatter it. The members of its
front, and the recommended configurations they are to be compared with, are recovered again with
several seeds (other data subsets, another order) and scored on the ``confirm`` split. What is
reported is what comes out of that.

A point leaves the front where another, no larger, is better and the 95 % interval of their paired
difference leaves zero out. One that only falls behind in the mean is tied: it stays, and says
with which. Each pair is judged at 95 % by itself; nothing is corrected for the number of pairs,
so of twenty pairs of equals about one is told apart wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autoprune.evaluation.floors import Floor, capability_scores, missed_by_mean
from autoprune.evaluation.retention import Difference, bootstrap, paired_difference, retention
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior, seed_prior
from autoprune.search.fronts.front import Point, no_larger, nondominated
from autoprune.tracking.records.costs import costs_in, size_in, split_objective
from autoprune.tracking.records.point import FrontPoint, Retention
from autoprune.tracking.records.trial import TrialRecord

NOISE = 0.01
"""A trial this close under the search's front in retention may well belong on it."""


@dataclass(frozen=True)
class Confirmed:
    """One configuration and its models' scores on the ``confirm`` split, one a seed."""

    record: TrialRecord
    scores: tuple[TaskScores, ...]


def members(
    records: Sequence[TrialRecord], limit: int = 8, objective: str = "params"
) -> list[TrialRecord]:
    """Return the trials worth confirming, smallest first.

    Those are the front of the full-fidelity trials that meet the floors, or nearly do, and, while
    there is room, the trials that lie within ``NOISE`` below it. Where none comes near the floors,
    those that are least below take their place. When the front itself is longer than ``limit``,
    members are taken evenly over the sizes, both ends included.
    """
    full = [r for r in records if is_full(r, objective)]
    full = _meeting(full)
    points = [(*(costs_in(r, objective) or (0.0,)), float(r.retention or 0)) for r in full]
    front = nondominated(points)
    if len(front) > limit:
        picks = sorted({round(i * (len(front) - 1) / max(limit - 1, 1)) for i in range(limit)})
        front = [front[i] for i in picks]
    chosen = set(front)
    lifted = sorted(
        (_best_of(points, front, point) - point[-1], i)
        for i, point in enumerate(points)
        if i not in chosen
    )
    for gap, index in lifted:
        if len(chosen) < limit and gap <= NOISE:
            chosen.add(index)
    return sorted((full[i] for i in chosen), key=lambda r: (size_in(r, objective), r.trial))


def _meeting(full: list[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that meet the floors or miss them by noise; else the least below."""
    near = [record for record in full if record.violation <= 2 * NOISE]
    if near or not full:
        return near
    least = sorted(full, key=lambda record: (record.violation, record.trial))
    return least[: max(1, len(full) // 4)]


def _best_of(points: Sequence[Point], front: Sequence[int], point: Point) -> float:
    """Return the highest retention among members of the front that are no larger than a point."""
    return max((points[f][-1] for f in front if no_larger(points[f], point)), default=0.0)


def is_full(record: TrialRecord, objective: str = "params") -> bool:
    """Whether a trial spent all of its recovery and was scored: only such may be a point."""
    return (
        record.state == "complete"
        and record.fidelity >= 1.0
        and record.retention is not None
        and costs_in(record, objective) is not None
    )


def compare(confirmed: Sequence[Confirmed], dense: TaskScores) -> dict[tuple[int, int], Difference]:
    """Return the paired difference in retention of each ordered pair of trials."""
    prior = scatter(confirmed, dense)
    result: dict[tuple[int, int], Difference] = {}
    for i, a in enumerate(confirmed):
        for b in confirmed[i + 1 :]:
            difference = paired_difference(a.scores, b.scores, dense, prior=prior)
            result[a.record.trial, b.record.trial] = difference
            result[b.record.trial, a.record.trial] = Difference(
                mean=-difference.mean,
                low=-difference.high,
                high=-difference.low,
                level=difference.level,
                seeds=difference.seeds,
                images=difference.images,
            )
    return result


def front_points(
    confirmed: Sequence[Confirmed],
    dense: TaskScores,
    differences: Mapping[tuple[int, int], Difference] | None = None,
    objective: str = "params",
    groups: Mapping[str, Sequence[str]] | None = None,
    floors: Sequence[Floor] = (),
) -> tuple[FrontPoint, ...]:
    """Return the confirmed points, smallest first in the unit of ``objective``.

    Args:
        confirmed: the configurations.
        dense: scores of the dense model.
        differences: of each ordered pair of trials; by default those of :func:`compare`.
        objective: what a size is.
        groups: tasks by capability.
        floors: what of the dense model's ability has to stay, in the mean over seeds. A point that
            is below one is no point of the front, and takes no other's place there.

    A point is marked dominated when another one is no larger (nor slower, where latency counts)
    and their paired difference lies beyond zero. Points whose paired difference holds zero name
    each other in ``tied_with``: the order of their means is not shown by the data. Of those, a
    point is marked behind when another one is no larger (nor slower) and its mean is no lower.
    """
    if differences is None:
        differences = compare(confirmed, dense)
    prior = scatter(confirmed, dense)
    points = []
    short = {one.record.trial: missed_by_mean(floors, one.scores, dense) for one in confirmed}
    for one in confirmed:
        trial, size = one.record.trial, size_in(one.record, objective)
        others = [other.record for other in confirmed if other.record.trial != trial]
        tied = [
            r
            for r in others
            if differences[trial, r.trial].tied and (short[trial] or not short[r.trial])
        ]
        interval = bootstrap(one.scores, dense, prior=prior)
        points.append(
            FrontPoint(
                trial=trial,
                params=one.record.params or 0,
                fraction=one.record.fraction or 0.0,
                axis=one.record.axis,
                recovery=one.record.recovery,
                data_fraction=one.record.data_fraction or 0.0,
                backbone_removed=one.record.backbone_removed or 0.0,
                precision=one.record.precision,
                bytes=one.record.bytes,
                bytes_fraction=one.record.bytes_fraction,
                memory=one.record.memory,
                memory_fraction=one.record.memory_fraction,
                latency=one.record.latency,
                latency_fraction=one.record.latency_fraction,
                latency_kind=one.record.latency_kind,
                retention=Retention(
                    mean=interval.mean,
                    low=interval.low,
                    high=interval.high,
                    seeds=interval.seeds,
                ),
                retention_raw=_mean([retention(s, dense).raw for s in one.scores]),
                scores={
                    name: _mean([s.by_task[name] for s in one.scores])
                    for name in one.scores[0].by_task
                },
                tied_with=tuple(sorted(r.trial for r in tied)),
                tied_smaller=tuple(sorted(r.trial for r in tied if size_in(r, objective) < size)),
                dominated=any(
                    differences[trial, r.trial].high < 0 and _no_larger(r, one.record, objective)
                    for r in others
                    if not short[r.trial]
                ),
                capabilities=capability_scores(groups or {}, one.scores, dense),
                missed=short[trial],
                baseline=one.record.baseline,
            )
        )
    held = [p for p in points if not p.missed]
    places = [(*(costs_in(p, objective) or (0.0,)), p.retention.mean) for p in held]
    ahead = {held[i].trial for i in nondominated(places)}
    marked = [
        p if p.dominated or p.missed or p.trial in ahead else p.model_copy(update={"behind": True})
        for p in points
    ]
    return tuple(sorted(marked, key=lambda p: (size_in(p, objective), -p.retention.mean)))


def _no_larger(a: TrialRecord, b: TrialRecord, objective: str) -> bool:
    """Whether a trial is no larger than another, and no slower where latency counts."""
    if size_in(a, objective) > size_in(b, objective):
        return False
    timed = split_objective(objective)[1]
    return not timed or (a.latency or 0.0) <= (b.latency or 0.0)


def meeting(confirmed: Sequence[Confirmed], points: Sequence[FrontPoint]) -> list[Confirmed]:
    """Return the configurations whose points meet the floors."""
    held = {point.trial for point in points if not point.missed}
    return [one for one in confirmed if one.record.trial in held]


class Shrinkage(NamedTuple):
    """By how much a search's own scores exceed the confirmed ones, with a 95 % interval.

    The limits are None where fewer than two points were confirmed.
    """

    mean: float
    low: float | None
    high: float | None


def shrinkage(confirmed: Sequence[Confirmed], points: Sequence[FrontPoint]) -> Shrinkage | None:
    """Return how much retention is lost from the search to the confirmation, on average.

    Paired by point; the interval is Student's over points, which all share the images of either
    split: it says how the loss varies from point to point.
    """
    from scipy.stats import t as student

    means = {p.trial: p.retention.mean for p in points}
    drops = [
        c.record.retention - means[c.record.trial]
        for c in confirmed
        if c.record.retention is not None
    ]
    if not drops:
        return None
    mean = _mean(drops)
    if len(drops) < 2:
        return Shrinkage(mean, None, None)
    error = float(np.std(drops, ddof=1)) / len(drops) ** 0.5
    half = float(student.ppf(0.975, len(drops) - 1)) * error
    return Shrinkage(mean, mean - half, mean + half)


def scatter(confirmed: Sequence[Confirmed], dense: TaskScores) -> SeedPrior | None:
    """Return how much seeds scatter in all configurations together.

    Three seeds alone say little about their own scatter (Student's t with 2 degrees of freedom).
    """
    return seed_prior([[retention(s, dense).value for s in one.scores] for one in confirmed])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
