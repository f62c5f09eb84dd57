"""What a search says of the time of a token that was measured on its machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from autoprune.amounts import seconds_text
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.timing import Timing


def timed(summary: SearchSummary) -> tuple[FrontPoint, ...]:
    """Return the points, and baselines beside them, whose time of a token was measured."""
    found = {p.trial: p for p in (*summary.points, *summary.baselines) if p.measured is not None}
    return tuple(found.values())


def over_budget(summary: SearchSummary, point: FrontPoint) -> bool:
    """Whether a point's measured time is above the bound that its modelled one keeps to."""
    most, taken = summary.budget.latency, point.measured_latency
    return most is not None and taken is not None and taken > most


def timing_text(timing: Timing) -> str:
    """Return a measured time with its interval: ``2.91ms [2.84ms, 3.02ms]``."""
    seconds, low, high = (seconds_text(t) for t in (timing.seconds, timing.low, timing.high))
    return f"{seconds} [{low}, {high}]"


def timings(summary: SearchSummary) -> list[str]:
    """Return sentences: by how much the model was off, and what is over the bound as measured."""
    points = timed(summary)
    if not points:
        return []
    lines = []
    ratios = [
        point.latency / point.measured.seconds
        for point in points
        if point.latency is not None and point.measured is not None
    ]
    where = summary.running.machine if summary.running else "this machine"
    if ratios:
        off = [ratio - 1 for ratio in ratios]
        worst = max(off, key=abs)
        lines.append(
            f"The time of a token is measured on {where}; the modelled one, by which trials were "
            f"sized and the front is drawn, is {statistics.median(off):+.0%} off in the median, "
            f"{worst:+.0%} at worst"
        )
    return [*lines, *_kept_or_not(summary)]


def _kept_or_not(summary: SearchSummary) -> list[str]:
    """Return whether the front keeps the bound on latency as measured, and what would make it."""
    most = summary.budget.latency
    front = [point for point in summary.front if point.measured is not None]
    if most is None or not front:
        return []
    over = [point for point in front if over_budget(summary, point)]
    if not over:
        return [f"Measured, too, every point of the front keeps to {seconds_text(most)} a token"]
    said = []
    for point in over:
        assert point.measured is not None
        sure = "" if point.measured.low > most else ", an interval that reaches below it"
        modelled = "" if point.latency is None else f" (modelled {seconds_text(point.latency)})"
        said.append(f"trial {point.trial} takes {timing_text(point.measured)}{sure}{modelled}")
    asked = f"{seconds_text(most)} a token that was asked for"
    line = f"Over the {asked}, as measured: {'; '.join(said)}. "
    short = [
        p.measured.seconds / p.latency
        for p in over
        if p.latency and p.measured and p.measured.low > most
    ]
    if not short:
        return [f"{line}'autoprune pick {summary.name} --device here' measures again"]
    room = seconds_text(most / max(short)).replace("µ", "u")
    return [
        f"{line}The model said less: a search with --budget {room}-latency leaves room for that"
    ]


def shared_kind(summaries: Sequence[SearchSummary]) -> str:
    """Return which time of a token searches say of all points, for one prompt on one device.

    ``measured`` where all measured it, else ``modelled``; empty where neither is shared.
    """
    running = [summary.running for summary in summaries]
    machines = {one.machine for one in running if one}
    if not all(one and one.device for one in running) or not same_place(summaries):
        return ""
    points = [p for summary in summaries for p in (*summary.points, *summary.baselines)]
    if "" not in machines and all(point.measured for point in points):
        return "measured"
    return "modelled" if all(point.latency is not None for point in points) else ""


def same_place(summaries: Sequence[SearchSummary]) -> bool:
    """Whether memory and latency are said for one prompt on one device.

    This machine is another one elsewhere; where a search measured nothing, it is not known which.
    """
    running = [summary.running for summary in summaries]
    machines = {one.machine for one in running if one} - {""}
    return len({one and one.said for one in running}) == 1 and len(machines) < 2


def seconds_of(point: FrontPoint, kind: str) -> float | None:
    """Return a point's time of a token of a kind that :func:`shared_kind` tells."""
    return {"measured": point.measured_latency, "modelled": point.latency}.get(kind)
