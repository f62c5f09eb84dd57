"""From a search's directory to what its report shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from autoprune.deploy.report.charts import (
    SIZES,
    Size,
    charts_of,
    confirmed_of,
    frame_of,
    kinds_of,
    offered,
    size_named,
)
from autoprune.deploy.report.commands import UNSAID, commands_of, export_command
from autoprune.deploy.report.details import details_of, rows_of
from autoprune.deploy.report.importance import knob_importances
from autoprune.deploy.report.losers import losers
from autoprune.deploy.report.measures import rungs, stages
from autoprune.deploy.report.model import Fact, Report, Row
from autoprune.deploy.report.words import floors, found, tiles
from autoprune.search.knobs.space import with_precisions
from autoprune.search.options import flag
from autoprune.search.records.stages import Stages
from autoprune.search.records.store import SearchStore
from autoprune.search.settings import SearchSettings
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.report import figures

STATES = {
    "finished": "Finished",
    "running": "Still running: this page shows it so far",
    "interrupted": "Stopped before its end: this page shows it so far",
}


def gather(store: SearchStore, summary: SearchSummary | None = None) -> Report:
    """Return what the report of a search shows, finished or not.

    Args:
        store: of the search.
        summary: its result, where that is at hand and not written yet.

    Raises:
        AutoPruneError: a file of the search's directory cannot be read.
    """
    settings, by_trial = store.settings(), store.records()
    records = [by_trial[number] for number in sorted(by_trial)]
    state = "finished" if summary is not None else store.state()
    summary = summary or store.summary()
    so_far = summary or unfinished(store, settings, records)
    space = with_precisions(store.space(), settings.precisions)
    return Report(
        name=store.name,
        state=state,
        state_text=STATES[state],
        found=found(so_far, records, settings.model, state),
        tiles=tiles(so_far, records, settings.trials),
        charts=charts_of(so_far, records) if so_far else (),
        confirmed=bool(so_far and so_far.points),
        details=details_of(so_far, records, partial(export_command, store)) if so_far else (),
        chosen=_chosen(so_far, records),
        rows=_rows(so_far, records),
        extra=_extra(so_far, records)[1],
        capabilities=_capabilities(so_far),
        dense_scores=so_far.dense.scores if so_far else {},
        frame=frame_of(so_far, records) if so_far else (0.0, 1.0),
        verdicts=(*floors(so_far), *(f"{line}." for line in figures(so_far))) if so_far else (),
        importances=knob_importances(records, space.distributions(), settings.seed),
        rungs=rungs(so_far.rungs) if so_far else (),
        stages=stages(so_far.stages) if so_far else (),
        stages_note=_ended(so_far),
        losers=losers(so_far, records) if so_far else (),
        settings=_settings(settings),
        budget=_budget(so_far, settings),
        versions=_versions(so_far, records),
        commands=commands_of(settings, store, summary, state),
    )


def unfinished(
    store: SearchStore, settings: SearchSettings, records: Sequence[TrialRecord]
) -> SearchSummary | None:
    """Return what is known of a search without a confirmed front; None before any size is.

    The dense model's size follows from a trial's size and the share that it is, the budget from
    the sizes that were searched.
    """
    sized = next((r for r in records if r.params and r.fraction), None)
    if sized is None or not sized.params or not sized.fraction:
        return None
    dense = round(sized.params / sized.fraction)
    known = (store.facts() or {}).get("sizes", {})
    most = {unit: int(ends[1]) for unit, ends in known.items()}
    params = most.pop("params", dense)
    # What is left are bytes in each precision, of the weights or of memory.
    largest = max(most.values(), default=None)
    return SearchSummary(
        name=store.name,
        objective=settings.objective,
        timed=settings.timed,
        dense=Dense(
            params=dense,
            bytes=_whole(sized.bytes, sized.bytes_fraction),
            memory=_whole(sized.memory, sized.memory_fraction),
            latency=sized.latency / sized.latency_fraction
            if sized.latency and sized.latency_fraction
            else None,
        ),
        budget=Budget(
            text=" and ".join(settings.budgets),
            params=params,
            fraction=params / dense,
            bytes=largest if settings.objective == "bytes" else None,
            memory=largest if settings.objective == "memory" else None,
        ),
        stages=Stages(store, settings.trials).records(),
    )


def _whole(size: int | None, share: float | None) -> int | None:
    return round(size / share) if size and share else None


def _chosen(summary: SearchSummary | None, records: Sequence[TrialRecord]) -> int | None:
    """Return the trial that is shown first: the best point, or the best trial so far."""
    if summary is not None and summary.points:
        best = summary.nearest or summary.stairs[-1]
        return best.trial
    full = [r for r in records if r.state == "complete" and r.retention is not None]
    chosen = max(full or records, key=lambda r: r.retention or 0.0, default=None)
    return chosen.trial if chosen and summary is not None else None


def _extra(
    summary: SearchSummary | None, records: Sequence[TrialRecord]
) -> tuple[list[Size], tuple[str, ...]]:
    """Return the units beside the objective's that the table has, and their names."""
    if summary is None:
        return [], ()
    first = size_named(summary.objective)
    units = [size for size in offered(summary, records) if size is not first]
    if first.key != "params" and SIZES[0] not in units:
        units.insert(0, SIZES[0])
    return units, tuple(size.choice for size in units)


def _rows(summary: SearchSummary | None, records: Sequence[TrialRecord]) -> tuple[Row, ...]:
    if summary is None:
        return ()
    return rows_of(summary, kinds_of(summary, records), _extra(summary, records)[0])


def _capabilities(summary: SearchSummary | None) -> tuple[str, ...]:
    """Return the names of the capabilities that points are compared by: two at least."""
    points = confirmed_of(summary).values() if summary else ()
    names = tuple(dict.fromkeys(name for point in points for name in point.capabilities))
    return names if len(names) > 1 else ()


def _ended(summary: SearchSummary | None) -> str:
    return f"The trials ended as {summary.ended}." if summary and summary.ended else ""


def _settings(settings: SearchSettings) -> tuple[Fact, ...]:
    values = settings.model_dump(mode="json")
    return tuple(
        Fact(name=flag(field), value=_shown(value))
        for field, value in values.items()
        if field not in UNSAID
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return json.dumps(value)
    return "none" if value is None else str(value)


def _budget(summary: SearchSummary | None, settings: SearchSettings) -> tuple[Fact, ...]:
    rows = [Fact(name="Asked for", value=" and ".join(settings.budgets))]
    if summary is None:
        return tuple(rows)
    for size in SIZES:
        if size.key != "measured_latency" and (limit := size.of(summary.budget)):
            rows.append(
                Fact(name=f"At most, {size.choice}", value=_of_dense(size, limit, summary.dense))
            )
    if summary.running is not None:
        rows.append(Fact(name="Memory and latency are for", value=summary.running.said))
        if summary.running.machine:
            rows.append(Fact(name="Latency was measured on", value=summary.running.machine))
    for name, least in summary.floors.items():
        rows.append(Fact(name=f"At least, {name}", value=f"{least:g} of the dense model's ability"))
    return tuple(rows)


def _of_dense(size: Size, limit: float, dense: Dense) -> str:
    """Return a bound, and its share of the dense model; a device may hold more than that."""
    whole = size.of(dense)
    if not whole:
        return size.text(limit)
    if limit >= whole:
        return f"{size.text(limit)}; the dense model has {size.text(whole)}"
    return f"{size.text(limit)} of {size.text(whole)} ({limit / whole:.1%})"


def _versions(summary: SearchSummary | None, records: Sequence[TrialRecord]) -> tuple[Fact, ...]:
    known = dict(summary.versions) if summary and summary.versions else {}
    if not known and records:
        known = records[-1].versions
    return tuple(Fact(name=name, value=version) for name, version in known.items())
