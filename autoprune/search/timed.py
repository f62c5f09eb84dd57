"""The time of a token of what a search has confirmed, measured on this machine.

While trials run their latency is modelled: a bound has to be kept before a trial begins, and
beside other workers a clock says little. When they have ended it is measured, once for each
confirmed point. The front and its hypervolume stay those of the modelled figure, which is the same
for the same plan; a measured one would order like points by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autoprune.amounts import seconds_text
from autoprune.cost.deployment import Kept
from autoprune.cost.estimate import shapes_of
from autoprune.cost.machine import this_machine, titled
from autoprune.cost.timing import measure_latency
from autoprune.errors import AutoPruneError
from autoprune.resources import threads_for
from autoprune.search.candidates.bounds import Bounds
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.timing import Timing
from autoprune.tracking.records.trial import TrialRecord

STEADY = 0.15
"""By so much the dense model's time, first and last, may differ on a machine that is at rest."""


def timed_here(
    summary: SearchSummary,
    records: Sequence[TrialRecord],
    bounds: Bounds,
    config: Any,
    on_warning: Callable[[str], None],
) -> SearchSummary:
    """Return a summary with the measured time of a token of its points and of the dense model.

    What cannot be measured keeps its modelled time alone, and is warned of.

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
    untold: dict[str, list[str]] = {}

    def time_of(name: str, pruned: Kept, precision: str) -> Timing | None:
        try:
            found = measure_latency(config, spec, pruned, bounds.prompt, precision, threads=threads)
        except (AutoPruneError, RuntimeError, MemoryError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            untold.setdefault(reason, []).append(name)
            return None
        assert found.low is not None
        assert found.high is not None
        return Timing(seconds=found.seconds, low=found.low, high=found.high)

    def time_of_point(point: FrontPoint) -> Timing | None:
        keep = kept.get(point.trial)
        if keep is None:
            return None
        shapes = shapes_of(spec, keep.heads, keep.channels)
        return time_of(f"trial {point.trial}", shapes, point.precision)

    first = time_of("the dense model", None, summary.dense.precision)
    found = {p.trial: p for p in (*summary.points, *summary.baselines)}
    times = {trial: time_of_point(point) for trial, point in sorted(found.items())}
    last = None if first is None else time_of("the dense model", None, summary.dense.precision)
    for reason, names in untold.items():
        on_warning(f"not measured: {', '.join(dict.fromkeys(names))} ({reason})")
    if first is not None and last is not None and _apart(first, last) > STEADY:
        on_warning(
            f"this machine was not at rest: a token of the dense model took "
            f"{seconds_text(first.seconds)} at first and {seconds_text(last.seconds)} at last; "
            f"'autoprune pick {summary.name} --device here' measures again"
        )

    def with_time(points: tuple[FrontPoint, ...]) -> tuple[FrontPoint, ...]:
        return tuple(p.model_copy(update={"measured": times[p.trial]}) for p in points)

    running = summary.running
    if running is not None and (first or any(times.values())):
        running = running.model_copy(update={"machine": titled(machine, threads)})
    return summary.model_copy(
        update={
            "dense": summary.dense.model_copy(update={"measured": _both(first, last)}),
            "points": with_time(summary.points),
            "baselines": with_time(summary.baselines),
            "running": running,
        }
    )


def _apart(one: Timing, other: Timing) -> float:
    """Return by what share the slower of two times is above the faster."""
    fast, slow = sorted((one.seconds, other.seconds))
    return slow / fast - 1


def _both(one: Timing | None, other: Timing | None) -> Timing | None:
    """Return what two times of the same model say together."""
    if one is None or other is None:
        return one
    return Timing(
        seconds=(one.seconds + other.seconds) / 2,
        low=min(one.low, other.low),
        high=max(one.high, other.high),
    )
