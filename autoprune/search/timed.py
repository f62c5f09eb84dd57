"""The time of a token of what a search has confirmed, measured on this machine.

While trials run their latency is modelled: a bound has to be kept before a trial begins, and
beside other workers a clock says little. When they have ended it is measured, once for each
confirmed point. The front and its hypervolume stay those of the modelled figure, which is the same
for the same plan; a measured one would order like points by chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from autoprune.cost.deployment import Kept
from autoprune.cost.estimate import shapes_of
from autoprune.cost.latency import Latency
from autoprune.cost.machine import this_machine, titled
from autoprune.cost.timing import measure_latencies
from autoprune.resources import threads_for
from autoprune.search.candidates.bounds import Bounds
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.timing import Timing
from autoprune.tracking.records.trial import TrialRecord

STEADY = 0.3
"""By this share the ends of a time's interval may lie apart on a machine that is at rest."""


def timed_here(
    summary: SearchSummary,
    records: Sequence[TrialRecord],
    bounds: Bounds,
    config: Any,
    on_warning: Callable[[str], None],
) -> SearchSummary:
    """Return a summary with the measured time of a token of its points and of the dense model.

    What cannot be measured keeps its modelled time alone, and is warned of: a search has its
    result whatever becomes of that.

    Args:
        summary: what was confirmed.
        records: of the trials.
        bounds: the prompt, and this machine as it was profiled.
        config: of the dense model.
        on_warning: told in a line of what was not measured, or of a machine that was not at rest.
    """
    spec, kept = bounds.spec, {record.trial: record.keep for record in records}
    known = 0 if bounds.device is None else bounds.device.threads
    machine, threads = this_machine(), threads_for(spec.total_params, known)
    plans: dict[int | None, tuple[Kept, str]] = {None: (None, summary.dense.precision)}
    for point in (*summary.points, *summary.baselines):
        if (keep := kept.get(point.trial)) is not None:
            plans[point.trial] = shapes_of(spec, keep.heads, keep.channels), point.precision
    names = ["the dense model" if trial is None else f"trial {trial}" for trial in plans]

    def warn(place: int, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        on_warning(f"the time of {names[place]} was not measured ({reason})")

    found = measure_latencies(
        config, spec, list(plans.values()), bounds.prompt, threads=threads, on_failure=warn
    )
    times = {t: _timing(one) for t, one in zip(plans, found, strict=True) if one is not None}
    if not times:
        return summary
    apart = statistics.median(time.high / time.low - 1 for time in times.values())
    if apart > STEADY:
        on_warning(
            f"this machine was not at rest: measured times moved by {apart:.0%}; 'autoprune pick "
            f"{summary.name} --device here' measures again"
        )

    def with_time(points: tuple[FrontPoint, ...]) -> tuple[FrontPoint, ...]:
        return tuple(p.model_copy(update={"measured": times.get(p.trial)}) for p in points)

    where = {"machine": titled(machine, threads)}
    return summary.model_copy(
        update={
            "dense": summary.dense.model_copy(update={"measured": times.get(None)}),
            "points": with_time(summary.points),
            "baselines": with_time(summary.baselines),
            "running": summary.running and summary.running.model_copy(update=where),
        }
    )


def _timing(found: Latency) -> Timing:
    low, high = found.low or found.seconds, found.high or found.seconds
    return Timing(seconds=found.seconds, low=low, high=high)
