"""The area under confirmed fronts, and how sure it is.

A front's hypervolume is a sum of the retentions of the points that bear its steps, weighted by the
steps' widths (see ``front.steps``), so its interval is that of such a sum, over images and seeds.
Which points bear the steps is taken as found. Of several points that tie, the highest mean bears
the step, so the area leans to the high side: in simulation (150 images, three seeds) the 95 %
interval covers 97 % of true areas where points differ, with an area that is 0.001 high, and 94 %
where six points nearly tie, with one that is 0.012 high (tests/search/test_area.py checks it).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from autoprune.evaluation.retention import Interval, retention, weighted_sum
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior
from autoprune.search.fronts.confirm import Confirmed
from autoprune.search.fronts.front import steps
from autoprune.tracking.records.costs import costs_in

Weighted = tuple[Confirmed, float]
"""A configuration and its weight in a sum of retentions."""


def stairs(
    confirmed: Sequence[Confirmed], dense: TaskScores, objective: str = "params"
) -> list[Weighted]:
    """Return the configurations that bear the steps of a front, with the steps' widths."""
    places = []
    for one in confirmed:
        kept = [retention(scores, dense).value for scores in one.scores]
        costs = costs_in(one.record, objective) or (0.0,)
        places.append((*costs, sum(kept) / len(kept)))
    return [(confirmed[i], width) for i, width in steps(places).items()]


def area(
    confirmed: Sequence[Confirmed],
    dense: TaskScores,
    objective: str = "params",
    prior: SeedPrior | None = None,
) -> Interval | None:
    """Return the hypervolume of confirmed points, reference (1, 0), with its 95 % interval.

    None where no point lies within the reference.
    """
    return total(stairs(confirmed, dense, objective), dense, prior)


def difference(
    a: Sequence[Weighted],
    b: Sequence[Weighted],
    dense: TaskScores,
    prior: SeedPrior | None = None,
) -> Interval | None:
    """Return the sum of ``a`` minus that of ``b``, paired over images, with its 95 % interval.

    Runs that both share, such as those of a baseline that two searches tried alike, are one
    run: where they bear equal steps they cancel. None where nothing is left to differ.
    """
    return total([*a, *((one, -width) for one, width in b)], dense, prior)


def total(
    parts: Sequence[Weighted], dense: TaskScores, prior: SeedPrior | None = None
) -> Interval | None:
    """Return the weighted sum of retentions; None where all weights are zero."""
    runs: dict[Hashable, tuple[TaskScores, ...]] = {}
    weights: dict[Hashable, float] = {}
    for one, weight in parts:
        key = answers_of(one)
        runs[key] = one.scores
        weights[key] = weights.get(key, 0.0) + weight
    left = [key for key, weight in weights.items() if abs(weight) > 1e-12]
    if not left:
        return None
    return weighted_sum([runs[k] for k in left], [weights[k] for k in left], dense, prior=prior)


def answers_of(one: Confirmed) -> Hashable:
    """Return what runs are told apart by: every answer of every seed."""
    return tuple(
        task.score if task.values is None else task.values.tobytes()
        for scores in one.scores
        for task in scores.tasks
    )
