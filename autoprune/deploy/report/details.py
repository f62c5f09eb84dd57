"""What is told of one trial: how it came about, its sizes, scores, knobs and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoprune.deploy.report.charts import (
    SIZES,
    STANDING,
    Size,
    confirmed_of,
    kinds_of,
    size_named,
)
from autoprune.deploy.report.model import CONFIRMED, Detail, Fact, Kind, Row, Score
from autoprune.tracking.records.costs import share_in
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import START, TrialRecord
from autoprune.tracking.timings import timing_text
from autoprune.tracking.units import duration, seeds_text

ORIGINS = {
    "sampler": "proposed by the sampler",
    "slide": "trial {} of the front, at another size",
    "refine": "refined from trial {} of the front",
    "warm": "the front of an earlier search",
}


def details_of(
    summary: SearchSummary, records: Sequence[TrialRecord], export: Callable[[int], str]
) -> tuple[Detail, ...]:
    """Return what is told of each trial, by number.

    Args:
        summary: the search.
        records: of its trials.
        export: returns the command that writes a trial as a checkpoint.
    """
    points, kinds = confirmed_of(summary), kinds_of(summary, records)
    known = {record.trial: record for record in records}
    found = []
    for trial in sorted(known.keys() | points.keys()):
        record, point = known.get(trial), points.get(trial)
        found.append(_detail(summary, trial, kinds[trial], record, point, export))
    return tuple(found)


def _detail(
    summary: SearchSummary,
    trial: int,
    kind: Kind,
    record: TrialRecord | None,
    point: FrontPoint | None,
    export: Callable[[int], str],
) -> Detail:
    item = point or record
    assert item is not None
    size = size_named(summary.objective)
    share, value = share_in(item, summary.objective), size.of(item)
    told = [point.baseline] if point and point.baseline else []
    told += [f"{share:.1%} of the model"] if share else []
    told += [size.text(value)] if value else []
    scores = point.scores if point else record.scores if record else {}
    r = point.retention if point else None
    return Detail(
        trial=trial,
        kind=kind,
        title=": ".join([f"Trial {trial}", ", ".join(told)]) if told else f"Trial {trial}",
        verdict=_verdict(kind, record, point),
        retention=r.mean if r else record.retention if record else None,
        low=r.low if r else None,
        high=r.high if r else None,
        facts=tuple(_facts(summary, record, point)),
        scores=tuple(
            Score(task=task, value=score, dense=summary.dense.scores.get(task))
            for task, score in scores.items()
        ),
        capabilities=tuple(
            Score(task=name, value=kept) for name, kept in point.capabilities.items()
        )
        if point
        else (),
        knobs=tuple(Fact(name=n, value=knob_text(v)) for n, v in record.given.items())
        if record
        else (),
        keep=record.keep if record else None,
        ties=point.tied_with if point else (),
        command=export(trial) if kind in CONFIRMED else "",
    )


def _verdict(kind: Kind, record: TrialRecord | None, point: FrontPoint | None) -> str:
    if point is not None:
        name = f"{point.baseline}, a usual recipe" if point.baseline else ""
        standing = STANDING[kind] if kind != "baseline" else "beside the front"
        if kind == "below" or (point.missed and kind == "baseline"):
            standing = point.shortfall
        parts = [name, standing, point.tie]
        return "; ".join(part for part in parts if part)
    reason = record.reason if record else ""
    return f"{STANDING[kind]}: {reason}" if reason else STANDING[kind]


def _facts(
    summary: SearchSummary, record: TrialRecord | None, point: FrontPoint | None
) -> list[Fact]:
    item = point or record
    assert item is not None
    found = [(size.choice, size.text(value)) for size in SIZES if (value := size.of(item))]
    facts = {name[:1].upper() + name[1:]: text for name, text in found}
    if point is not None and point.measured is not None:
        facts["Measured latency"] = timing_text(point.measured)
    if item.backbone_removed is not None:
        facts["Backbone removed"] = f"{item.backbone_removed:.1%}"
        if record is not None and record.asked_removed is not None:
            facts["Backbone removed"] += f" ({record.asked_removed:.1%} was asked for)"
    if item.precision:
        facts["Precision"] = item.precision
    if item.axis:
        facts["What is cut"] = item.axis
    if item.recovery:
        facts["Recovery"] = item.recovery
    if item.data_fraction is not None:
        facts["Recovery data"] = f"{item.data_fraction:.0%} of the samples"
    if point is not None:
        r = point.retention
        facts["Confirmed over"] = f"{seeds_text(r.seeds)}, on images no trial has seen"
    if point is not None and point.retention_raw is not None:
        facts["Raw ratio of scores"] = f"{point.retention_raw:.3f}"
    if record is None:
        return [Fact(name=name, value=text) for name, text in facts.items()]
    if point is not None and record.retention is not None:
        facts["On the search's images"] = f"{record.retention:.3f}"
    if record.keep is not None:
        facts["Layers kept"] = f"{record.keep.layers_kept} of {len(record.keep.heads)}"
    if point is None and 0 < record.fidelity < 1:
        facts["Recovery spent"] = f"{record.fidelity:.0%}"
    if record.proxy_kl is not None:
        facts["KL to the dense model"] = f"{record.proxy_kl:.3g} nats a token"
    facts["Where it came from"] = _origin(record)
    if spent := sum(record.stage_seconds.values()):
        facts["Time of the trial"] = duration(spent)
    return [Fact(name=name, value=text) for name, text in facts.items()]


def _origin(record: TrialRecord) -> str:
    if record.origin.startswith(START):
        return f"a starting point ({record.origin.removeprefix(START)})"
    if record.baseline:
        return f"a usual recipe ({record.baseline})"
    text = ORIGINS.get(record.origin, record.origin)
    return text.format("?" if record.parent is None else record.parent)


def knob_text(value: object) -> str:
    """Return a knob's value as it is shown: a few figures, on and off."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows_of(
    summary: SearchSummary, kinds: Mapping[int, Kind], extra: Sequence[Size]
) -> tuple[Row, ...]:
    """Return the table of confirmed points, smallest first.

    Args:
        summary: the search.
        kinds: of its trials.
        extra: further units that sizes are shown in.
    """
    size = size_named(summary.objective)
    rows = []
    for point in summary.by_size(confirmed_of(summary).values()):
        kind, r = kinds[point.trial], point.retention
        rows.append(
            Row(
                trial=point.trial,
                kind=kind,
                name=point.baseline or "",
                standing=STANDING[kind],
                size=size.of(point) or 0.0,
                size_text=size.text(size.of(point) or 0.0),
                share=share_in(point, size.key),
                removed=point.backbone_removed,
                retention=r.mean,
                low=r.low,
                high=r.high,
                raw=point.retention_raw,
                seeds=r.seeds,
                precision=point.precision,
                axis=point.axis,
                recovery=point.recovery,
                data=point.data_fraction,
                ties=", ".join(map(str, point.tied_with)),
                scores=point.scores,
                capabilities=point.capabilities,
                extra=tuple(
                    "" if (value := unit.of(point)) is None else unit.text(value) for unit in extra
                ),
            )
        )
    return tuple(rows)
