"""Sizes against retention: which trials are on the chart, and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from autoprune.amounts import SECONDS, seconds_text, unit_of
from autoprune.deploy.report.model import Chart, Kind, Mark, Tick
from autoprune.search.fronts.front import nondominated
from autoprune.tracking.plots import comparable, retention_range, right_end, stopped
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.terminal import bytes_text, params_text
from autoprune.tracking.units import byte_unit, size_unit

STANDING: dict[Kind, str] = {
    "front": "on the front",
    "tied": "on the front by a tie",
    "below": "below a floor",
    "dominated": "confirmed, but beaten",
    "baseline": "usual recipe",
    "trial": "ran to its end, not confirmed",
    "stopped": "stopped early",
    "running": "not at its end yet",
    "failed": "failed",
}


@dataclass(frozen=True)
class Size:
    """A unit that sizes can be drawn over.

    Attributes:
        key: field of a record or point, a budget and the dense model that holds it.
        choice: how it is called where it can be chosen.
        title: of the axis, before the unit.
        text: a size as people say it.
        unit: divisor and name of the unit that suits a size.
    """

    key: str
    choice: str
    title: str
    text: Callable[[float], str]
    unit: Callable[[float], tuple[float, str]]

    def of(self, item: Any) -> float | None:
        """Return the size that a record, point, budget or the dense model has in this unit."""
        value = getattr(item, self.key, None)
        return float(value) if value else None


def _of_count(text: Callable[[int], str]) -> Callable[[float], str]:
    return lambda value: text(round(value))


def _of_unit(unit: Callable[[int], tuple[float, str]]) -> Callable[[float], tuple[float, str]]:
    return lambda value: unit(round(value))


SIZES = (
    Size(
        "params",
        "parameters",
        "parameters of the whole model",
        _of_count(params_text),
        _of_unit(size_unit),
    ),
    Size(
        "bytes",
        "stored bytes",
        "stored weights of the whole model",
        _of_count(bytes_text),
        _of_unit(byte_unit),
    ),
    Size("memory", "memory", "memory in use", _of_count(bytes_text), _of_unit(byte_unit)),
    Size(
        "latency",
        "modelled latency",
        "modelled time a token",
        seconds_text,
        partial(unit_of, units=SECONDS),
    ),
    Size(
        "measured_latency",
        "measured latency",
        "time a token, measured where the search ran",
        seconds_text,
        partial(unit_of, units=SECONDS),
    ),
)


RUN = ("memory", "latency", "measured_latency")
"""Units that depend on the prompt and the device."""


def size_named(key: str) -> Size:
    """Return the unit of sizes that an objective means."""
    return next((size for size in SIZES if size.key == key), SIZES[0])


def kinds_of(summary: SearchSummary, records: Sequence[TrialRecord]) -> dict[int, Kind]:
    """Return what became of each trial."""
    kinds: dict[int, Kind] = {
        r.trial: "trial" if r.state == "complete" else r.state for r in records
    }
    for point in (*summary.baselines, *summary.points):
        kinds[point.trial] = _standing(point, point in summary.front)
    return kinds


def _standing(point: FrontPoint, on_front: bool) -> Kind:
    if point.baseline is not None and not on_front:
        return "baseline"
    if point.missed:
        return "below"
    if point.dominated:
        return "dominated"
    return "tied" if point.behind else "front"


def confirmed_of(summary: SearchSummary) -> dict[int, FrontPoint]:
    """Return the confirmed points by trial."""
    return {point.trial: point for point in (*summary.baselines, *summary.points)}


def offered(summary: SearchSummary, records: Sequence[TrialRecord]) -> list[Size]:
    """Return the units that sizes can be shown in, the search's objective first.

    A unit counts where every confirmed point has it (every scored trial, before there are any);
    bytes say something of their own only where precisions differ.
    """
    items: list[Any] = [*confirmed_of(summary).values()] or [*comparable(records)]
    items = items or [*stopped(records)]
    first = size_named(summary.objective)
    mixed = len({item.precision for item in items}) > 1
    return [
        size
        for size in sorted(SIZES, key=lambda size: size.key != first.key)
        if items
        and all(size.of(item) is not None for item in items)
        and (size is first or size.key != "bytes" or mixed)
    ]


def charts_of(summary: SearchSummary, records: Sequence[TrialRecord]) -> tuple[Chart, ...]:
    """Return a chart a unit of size, the search's objective first; none before a figure."""
    shown = [*comparable(records), *stopped(records)]
    if not shown and not summary.points:
        return ()
    frame = frame_of(summary, records)
    kinds = kinds_of(summary, records)
    return tuple(_chart(size, summary, shown, kinds, frame) for size in offered(summary, records))


def frame_of(summary: SearchSummary, records: Sequence[TrialRecord]) -> tuple[float, float]:
    """Return the retentions that are shown; what was stopped counts only where it is all."""
    early = [r.retention for r in stopped(records) if r.retention is not None]
    low, high = retention_range(summary, records)
    if early and not comparable(records) and not summary.points:
        low = min(low, min(early) - 0.06 * (1 - min(early)))
    return low, high


def _chart(
    size: Size,
    summary: SearchSummary,
    records: Sequence[TrialRecord],
    kinds: Mapping[int, Kind],
    frame: tuple[float, float],
) -> Chart:
    points = confirmed_of(summary)
    items: dict[int, TrialRecord | FrontPoint] = {
        r.trial: r for r in records if size.of(r) is not None
    }
    items |= {trial: p for trial, p in points.items() if size.of(p) is not None}
    sizes = {trial: size.of(item) or 0.0 for trial, item in items.items()}
    limit, dense = size.of(summary.budget), size.of(summary.dense)
    left = min([*sizes.values(), *([limit] if limit else [])])
    most = max([*sizes.values(), *([limit] if limit else [])])
    right, far = right_end(left, most, dense) if dense else (most + 0.25 * (most - left), False)
    left = right - 1.06 * (right - left)

    def across(value: float) -> float:
        return (value - left) / (right - left) if right > left else 0.5

    def up(value: float) -> float:
        return (value - frame[0]) / (frame[1] - frame[0])

    marks = tuple(
        _mark(item, kinds[trial], across(sizes[trial]), up, size, sizes[trial])
        for trial, item in sorted(items.items())
    )
    whole = dense or most
    divisor, unit = size.unit(whole)
    return Chart(
        key=size.key,
        choice=size.choice,
        title=f"{size.title} ({unit})" if unit else size.title,
        marks=marks,
        stairs=_stairs(summary, marks, size.key),
        x_ticks=tuple(
            Tick(
                at=across(value * divisor),
                text=text,
                note=f"{value * divisor / dense:.0%}" if dense else "",
            )
            for value, text in nice(left / divisor, right / divisor)
        ),
        y_ticks=tuple(Tick(at=up(value), text=text) for value, text in nice(*frame, steps=7)),
        budget=None
        if not limit
        else Tick(at=across(limit), text=_bound(summary, size), note=size.text(limit)),
        dense=None
        if not dense
        else Tick(at=1.0 if far else across(dense), text="dense model", note=size.text(dense)),
        dense_far=far,
        whole=up(1.0),
        note=_note(summary, size),
        below=sum(not mark.inside for mark in marks),
    )


def _bound(summary: SearchSummary, size: Size) -> str:
    """Return what the budget's line is called: as it was typed, where that is of this unit."""
    text = summary.budget.text
    return f"budget {text}" if size.key == "params" and " and " not in text else "budget"


def _mark(
    item: TrialRecord | FrontPoint,
    kind: Kind,
    x: float,
    up: Callable[[float], float],
    size: Size,
    value: float,
) -> Mark:
    share = f" ({item.fraction:.1%})" if size.key == "params" and item.fraction else ""
    if isinstance(item, FrontPoint):
        r = item.retention
        label = item.baseline if item.baseline and kind == "baseline" else str(item.trial)
        return Mark(
            trial=item.trial,
            kind=kind,
            axis=item.axis,
            x=x,
            y=up(r.mean),
            low=up(r.low),
            high=up(r.high),
            label=label,
            says=f"trial {item.trial}{f', {item.baseline}' if item.baseline else ''}: "
            f"{size.text(value)}{share}, retention {r.mean:.3f} ({r.low:.3f} to {r.high:.3f}), "
            f"{STANDING[kind]}",
        )
    retention = item.retention or 0.0
    spent = "" if item.fidelity >= 1 else f" after {item.fidelity:.0%} of its recovery"
    return Mark(
        trial=item.trial,
        kind=kind,
        axis=item.axis,
        x=x,
        y=up(retention),
        says=f"trial {item.trial}: {size.text(value)}{share}, retention {retention:.3f} on the "
        f"search's images{spent}, {STANDING[kind]}",
        inside=up(retention) >= 0,
    )


def _note(summary: SearchSummary, size: Size) -> str:
    """Return what memory or latency is said for."""
    running = summary.running
    if running is None or size.key not in RUN:
        return ""
    if size.key == "measured_latency":
        return f"For {running.prompt} on {running.machine}."
    return f"For {running.said}."


def _stairs(
    summary: SearchSummary, marks: Sequence[Mark], key: str
) -> tuple[tuple[float, float], ...]:
    """Return the corners of the front, from left to right.

    In the search's objective that is the confirmed front as it was decided. In another unit,
    where latency counts as well, and before there is a front, it is the best means of its points,
    or of the trials.
    """
    front = [mark for mark in marks if mark.kind in ("front", "tied")]
    if key == summary.objective and summary.points and not summary.timed:
        on = {point.trial for point in summary.stairs}
        chosen = [mark for mark in front if mark.trial in on]
    else:
        full = front if summary.points else [mark for mark in marks if mark.kind == "trial"]
        chosen = [full[i] for i in nondominated([(mark.x, mark.y) for mark in full])]
    return tuple((mark.x, mark.y) for mark in sorted(chosen, key=lambda mark: mark.x))


def nice(low: float, high: float, steps: int = 5) -> list[tuple[float, str]]:
    """Return at most ``steps`` + 1 round values between two, evenly apart, and their texts."""
    if not high > low:
        return [(low, f"{low:.3g}")]
    rough = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = next(d for d in range(12) if abs(round(step, d) - step) < 1e-9 * step)
    return [(i * step, f"{i * step:,.{digits}f}") for i in range(first, last + 1)]
