"""A search in sentences and in figures that stand out."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.deploy.report.charts import confirmed_of, share_of, size_named
from autoprune.deploy.report.model import Loser, Losers, Rung, Stage, Tile
from autoprune.tracking.records import (
    FrontPoint,
    RungRecord,
    SearchSummary,
    StageRecord,
    TrialRecord,
)
from autoprune.tracking.units import duration, seeds_text

FAIR = 0.25
"""Share by which a forecast may err and still be called met: what a search promises."""


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
    failed = [r for r in records if r.state == "failed"]
    if full:
        best = max(full, key=lambda r: r.retention or 0.0)
        return (
            f"Nothing is confirmed yet. The best of {counted(len(full), 'trial')} that ran to the "
            f"end, trial {best.trial}, keeps {best.retention:.3f} of the ability of {model} with "
            f"{_share(best, summary)} of its {_unit(summary)}, by one seed on the images that the "
            "search itself looks at.",
            "Best of many is flattered by luck: confirmed figures tend to be lower.",
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
    """Return how the best point stands to the best usual recipe that is no smaller than it."""
    if best.baseline:
        return f"It is itself a usual recipe, {best.baseline}."
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
    share = share_of(item, summary)
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
        beside = counted(len(summary.baselines), "usual recipe") + " beside it"
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


def rungs(records: Sequence[RungRecord]) -> tuple[Rung, ...]:
    """Return how well each look ranked trials, in words."""
    shown = []
    for rung in records:
        known = rung.correlation is not None and rung.low is not None and rung.high is not None
        few = f"{counted(rung.trials, 'trial')}: too few to say"
        bins = counted(rung.bins, "bin") + " of size"
        said = f"{counted(rung.trials, 'trial')} in {bins}" if known else few
        how = "by that" if known else "as it began"
        shown.append(
            Rung(
                at="after the cut" if rung.share == 0 else f"at {rung.share:.0%} of recovery",
                correlation=rung.correlation if known else None,
                low=rung.low if known else None,
                high=rung.high if known else None,
                trials=rung.trials,
                said=said,
                stops=f"stops the last {rung.stops:.0%}, {how}" if rung.stops else "stops none",
            )
        )
    return tuple(shown)


NAMES = {"prepare": "Preparation", "trials": "Trials", "confirm": "Confirmation"}


def stages(records: Sequence[StageRecord]) -> tuple[Stage, ...]:
    """Return each stage's forecast and fact, and all together where there are several."""
    rows = [*records]
    if len(rows) > 1:
        said = [row.forecast for row in rows if row.forecast is not None]
        rows.append(
            StageRecord(
                stage="all",
                forecast=sum(said) if len(said) == len(rows) else None,
                seconds=sum(row.seconds for row in rows),
            )
        )
    return tuple(
        Stage(
            name=NAMES.get(row.stage, row.stage.capitalize()),
            seconds=row.seconds,
            forecast=row.forecast,
            taken_text=duration(row.seconds),
            forecast_text="no forecast" if row.forecast is None else duration(row.forecast),
            verdict=_met(row),
        )
        for row in rows
    )


def _met(row: StageRecord) -> str:
    if not row.forecast:
        return ""
    off = row.seconds / row.forecast - 1
    if abs(off) < 0.005:
        return "as said"
    how = "longer" if off > 0 else "shorter"
    return f"{abs(off):.0%} {how} than said"


def losers(summary: SearchSummary, records: Sequence[TrialRecord]) -> tuple[Losers, ...]:
    """Return the trials that are on no front, by how they ended, and why."""
    confirmed = confirmed_of(summary)
    size = size_named(summary.objective)

    def rows(chosen: Sequence[TrialRecord], why: str = "") -> tuple[Loser, ...]:
        return tuple(
            Loser(
                trial=record.trial,
                axis=record.axis,
                size_text="" if (value := size.of(record)) is None else size.text(value),
                recovery=record.recovery,
                spent=f"{record.fidelity:.0%}",
                retention=record.retention,
                why=record.reason or why or "no reason was noted",
            )
            for record in chosen
        )

    def of(state: str) -> list[TrialRecord]:
        return [r for r in records if r.state == state and r.trial not in confirmed]

    short = {p.trial: p.shortfall for p in summary.points if p.missed}
    beaten = [p for p in summary.points if p.dominated and not p.missed]
    groups = (
        Losers(
            title="Failed",
            note="They raised an error, ran out of memory or gave no number.",
            rows=rows(of("failed")),
        ),
        Losers(
            title="Stopped early",
            note="At a look before their end they ranked too low among trials of their size. "
            "Their retention was taken then, and is not comparable.",
            rows=rows(of("stopped")),
        ),
        Losers(
            title="Ran to their end, not confirmed",
            note="Trials of the search's front, or close below it, are confirmed; these were not.",
            rows=rows(of("complete"), "below the front on the search's images"),
        )
        if confirmed
        else None,
        Losers(
            title="Below a floor",
            note="Confirmed, but they keep less of a task or capability than has to stay.",
            rows=tuple(
                row.model_copy(update={"why": short[row.trial]})
                for row in rows([r for r in records if r.trial in short])
            ),
        ),
        Losers(
            title="Confirmed, but beaten",
            note="Another point is no larger, and better beyond the interval of their paired "
            "difference.",
            rows=rows(
                [r for r in records if r.trial in {p.trial for p in beaten}],
                "beaten when confirmed",
            ),
        ),
        Losers(
            title="Not at their end",
            note="They were running when this page was made, or when the search was stopped.",
            rows=rows(of("running"), "it had not ended"),
        ),
    )
    return tuple(group for group in groups if group is not None and group.rows)
