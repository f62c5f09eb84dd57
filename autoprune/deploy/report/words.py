"""A search in sentences and in figures that stand out."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.deploy.report.charts import size_named
from autoprune.deploy.report.model import Tile
from autoprune.tracking.records.costs import share_in
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.units import duration, seeds_text


def found(
    summary: SearchSummary | None, records: Sequence[TrialRecord], model: str, state: str
) -> tuple[str, ...]:
    """Return what was found in sentences, the most important first.

    Args:
        summary: the search, or None where nothing was measured.
        records: of its trials.
        model: that is cut, as it is called.
        state: finished, running, interrupted.
    """
    if summary is not None and summary.front:
        return _front_found(summary, model)
    if summary is not None and (near := summary.nearest) is not None:
        return (
            f"No point keeps the floors ({_floors(summary)}). Trial {near.trial} comes nearest, "
            f"with {_share(near, summary)} of its {_unit(summary)}: {near.shortfall}.",
            "Lower floors, a larger budget or more trials may find one.",
        )
    full = [r for r in records if r.state == "complete" and r.retention is not None]
    failed = [r for r in records if r.state == "failed"]
    if full:
        best = max(full, key=lambda r: r.retention or 0.0)
        return (
            f"So far, with {_share(best, summary)} of its {_unit(summary)}, {model} keeps "
            f"{best.retention:.3f} of its ability; nothing is confirmed yet.",
            f"That is trial {best.trial}, the best of {counted(len(full), 'trial')} that ran to "
            "the end: one seed, on the images that the search itself looks at. The best of many is "
            "flattered by luck, so confirmed figures tend to be lower.",
        )
    if failed and len(failed) == len(records):
        reasons = sorted({r.reason for r in failed}, key=len)
        return (
            f"Nothing was found: all {counted(len(failed), 'trial')} failed.",
            f"The first reason given: {reasons[0] or 'none'}.",
        )
    if records:
        return ("Nothing is found yet: no trial has run to its end.",)
    going = " It has only begun." if state == "running" else ""
    return (f"Nothing is found yet: no trial has started.{going}",)


def _front_found(summary: SearchSummary, model: str) -> tuple[str, ...]:
    best, small = summary.stairs[-1], summary.front[0]
    r = best.retention
    lines = [
        f"With {_share(best, summary)} of its {_unit(summary)}, {model} keeps {r.mean:.3f} "
        f"({r.low:.3f} to {r.high:.3f}) of its ability.",
        f"That is trial {best.trial}, confirmed over {seeds_text(r.seeds)} on images that no trial "
        "has seen; intervals are at 95 %.",
    ]
    if small.trial != best.trial:
        lines.append(
            f"The smallest of the {len(summary.front)} on the front, trial {small.trial}, keeps "
            f"{small.retention.mean:.3f} ({_interval(small)}) with {_share(small, summary)}."
        )
    else:
        lines.append("It is the only point on the front.")
    if line := against_baseline(summary, best):
        lines.append(line)
    return tuple(lines)


def against_baseline(summary: SearchSummary, best: FrontPoint) -> str:
    """Return how the best point stands to the best usual recipe, whatever that one's size."""
    if best.baseline:
        return f"Trial {best.trial} is itself a usual recipe, {best.baseline}."
    base = max(summary.baselines, key=lambda p: p.retention.mean, default=None)
    if base is None:
        return ""
    tied = base.trial in best.tied_with or best.trial in base.tied_with
    gain = best.retention.mean - base.retention.mean
    how = "tied with it" if tied else "better" if gain > 0 else "worse"
    return (
        f"The best usual recipe, {base.baseline} with {_share(base, summary)}, keeps "
        f"{base.retention.mean:.3f} ({_interval(base)}): trial {best.trial} is {how} "
        f"({gain:+.3f})."
    )


def floors(summary: SearchSummary) -> tuple[str, ...]:
    """Return whether the floors are kept, in a sentence; nothing where there are none."""
    if not summary.floors:
        return ()
    if summary.nearest is not None:
        return (f"No point keeps the floors ({_floors(summary)}).",)
    return (f"Every point of the front keeps the floors ({_floors(summary)}).",)


def _floors(summary: SearchSummary) -> str:
    return ", ".join(f"{name} {least:g}" for name, least in summary.floors.items())


def _interval(point: FrontPoint) -> str:
    return f"{point.retention.low:.3f} to {point.retention.high:.3f}"


def _unit(summary: SearchSummary | None) -> str:
    return size_named(summary.objective if summary else "params").choice


def _share(item: TrialRecord | FrontPoint, summary: SearchSummary | None) -> str:
    share = share_in(item, summary.objective if summary else "params")
    return "an unknown share" if share is None else f"{share:.1%}"


def counted(count: int, what: str) -> str:
    """Return ``1 trial`` or ``3 trials``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def tiles(
    summary: SearchSummary | None, records: Sequence[TrialRecord], wanted: int
) -> tuple[Tile, ...]:
    """Return the figures at the top.

    Args:
        summary: the search, or None where nothing was measured.
        records: of its trials.
        wanted: trials that were asked for.
    """
    shown = []
    if summary is not None and summary.front:
        best, small = summary.stairs[-1], summary.front[0]
        r = best.retention
        shown.append(
            Tile(
                label="best retention",
                value=f"{r.mean:.3f}",
                note=f"{r.low:.3f} to {r.high:.3f}, at {_share(best, summary)}",
            )
        )
        shown.append(
            Tile(
                label="smallest on the front",
                value=_share(small, summary),
                note=f"keeps {small.retention.mean:.3f}",
            )
        )
        tied = sum(point.behind for point in summary.front)
        on = {point.trial for point in summary.front}
        others = sum(point.trial not in on for point in summary.baselines)
        beside = counted(others, "usual recipe") + " beside it"
        shown.append(
            Tile(
                label="points on the front",
                value=str(len(summary.front)),
                note=f"{tied} by a tie; {beside}" if tied else beside,
            )
        )
    states: list[str] = [record.state for record in records]
    parts = [
        f"{count} {word}"
        for state, word in (
            ("complete", "to the end"),
            ("stopped", "stopped early"),
            ("failed", "failed"),
            ("running", "unfinished"),
        )
        if (count := states.count(state))
    ]
    asked = f" of {wanted}" if len(records) < wanted else ""
    shown.append(Tile(label="trials", value=f"{len(records)}{asked}", note=", ".join(parts)))
    if summary is not None and summary.front and summary.hypervolume is not None:
        low, high = summary.hypervolume_low, summary.hypervolume_high
        note = "area under the front" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        shown.append(Tile(label="hypervolume", value=f"{summary.hypervolume:.3f}", note=note))
    if summary is not None and summary.taken:
        forecast = [stage.forecast for stage in summary.stages if stage.forecast is not None]
        whole = len(forecast) == len(summary.stages)
        note = f"forecast {duration(sum(forecast))}" if whole else "all stages"
        shown.append(Tile(label="time", value=duration(summary.taken), note=note))
    return tuple(shown)
