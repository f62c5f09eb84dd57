"""What a record is called in MLflow: parameters, metrics, tags and statuses, as plain data.

Names are chosen so that the UI's own defaults show what matters. Its charts start with the
first names by the alphabet: `axis`, `data_fraction`, `fraction` among the parameters and
`retention` among the metrics; knobs, scores, sizes and times follow under a prefix, which the
UI turns into sections.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.identity import content_hash
from autoprune.tracking.records.base import Knob
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchInfo, SearchSummary
from autoprune.tracking.records.trial import TrialRecord

STATUS = {"running": "RUNNING", "complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

KEY_TAG = "autoprune.key"  # tells searches apart, and finds one again on resume
TRIAL_TAG = "autoprune.trial"  # tells the trials of a search apart
RECORD_TAG = "autoprune.record"  # hash of what was logged last, so that nothing is logged twice
WRITER_TAG = "autoprune.writer"  # who writes to this search now


def trial_params(record: TrialRecord) -> dict[str, str]:
    """Return the parameters of a trial's run: what was tried, and the size that came of it."""
    own = {
        "axis": record.axis or None,
        "data_fraction": record.data_fraction,
        "fraction": _rounded(record.fraction),
        "origin": record.origin,
        "parent": record.parent,
        "precision": record.precision or None,
        "recovery": record.recovery or None,
        "seed": record.seed,
    }
    knobs = {f"knob/{name}": _short(value) for name, value in record.knobs.items()}
    return {name: str(value) for name, value in {**own, **knobs}.items() if value is not None}


def trial_metrics(record: TrialRecord) -> dict[str, float]:
    """Return the metrics of a trial as far as it has come.

    `retention` is there for trials of full fidelity only, so that no chart or order of the UI
    sets a trial that was stopped early beside them; `rung/retention` is what each rung measured.
    """
    whole = record.state == "complete"
    metrics: dict[str, float | None] = {
        "retention": record.retention if whole else None,
        "retention_raw": record.retention_raw if whole else None,
        "rung/retention": record.retention,
        "rung/fidelity": record.fidelity,
        "rung/proxy_kl": record.proxy_kl,
        "size/backbone_removed": record.backbone_removed,
        "size/asked_removed": record.asked_removed,
        "size/bytes": record.bytes,
        "size/bytes_fraction": record.bytes_fraction,
        "size/memory": record.memory,
        "size/memory_fraction": record.memory_fraction,
        "latency/seconds": record.latency,
        "latency/fraction": record.latency_fraction,
        "size/fraction": record.fraction,
        "size/params": record.params,
        "work/flops": record.flops,
    }
    metrics |= {f"score/{task}": value for task, value in record.scores.items()}
    metrics |= {f"work/seconds_{name}": value for name, value in record.stage_seconds.items()}
    if record.keep is not None:
        metrics["size/layers"] = record.keep.layers_kept
    return shown(metrics)


def trial_history(record: TrialRecord) -> list[tuple[str, float, int]]:
    """Return name, value and step of what each rung measured, for the curves of the UI."""
    history = []
    for rung, value in enumerate(record.rung_values):
        if value is not None:
            name = "rung/retention" if rung else "rung/proxy_kl"
            history.append((name, value if rung else -value, rung))
    return history


def trial_tags(record: TrialRecord) -> dict[str, str]:
    """Return the tags of a trial's run; `state` and `reason` say how it ended."""
    tags = {
        RECORD_TAG: record_hash(record),
        "state": record.state,
        "reason": record.reason,
        "origin": record.origin,
        "axis": record.axis,
        "recovery": record.recovery,
    }
    tags |= {f"version.{name}": version for name, version in record.versions.items()}
    # An empty reason is written, too: it takes away the one that an interruption left.
    return {name: value for name, value in tags.items() if value or name == "reason"}


def record_hash(record: TrialRecord) -> str:
    """Return the hash that tells whether a record has already been logged as it is."""
    return content_hash(record.model_dump(mode="json"))


def search_params(info: SearchInfo) -> dict[str, str]:
    """Return the parameters of a search's run: its budget and its settings."""
    own: dict[str, object] = {"search": info.name}
    if info.budget is not None:
        own |= {"budget": info.budget.text, "budget_params": info.budget.params}
        own["budget_bytes"] = info.budget.bytes
    if info.dense is not None:
        own |= {"dense_params": info.dense.params, "dense_bytes": info.dense.bytes}
    own |= {f"measured/{name}": f"{value:g}" for name, value in info.measured.items()}
    own |= {f"setting/{name}": value for name, value in info.settings.items()}
    return {name: str(value) for name, value in own.items() if value is not None}


def search_tags(info: SearchInfo) -> dict[str, str]:
    """Return the tags of a search's run."""
    versions = {f"version.{name}": version for name, version in info.versions.items()}
    return {KEY_TAG: info.key, "search": info.name, "kind": "search", **versions}


def summary_metrics(summary: SearchSummary, records: list[TrialRecord]) -> dict[str, float]:
    """Return the metrics of a search's run: what it found, and what it took."""
    metrics: dict[str, float | None] = {
        "front/hypervolume": summary.hypervolume,
        "front/hypervolume_high": summary.hypervolume_high,
        "front/hypervolume_low": summary.hypervolume_low,
        "front/points": len(summary.front),
        "front/shrinkage": summary.shrinkage,
        "front/shrinkage_high": summary.shrinkage_high,
        "front/shrinkage_low": summary.shrinkage_low,
        "work/seconds": summary.seconds,
    }
    for stage in summary.stages:
        metrics[f"work/forecast_{stage.stage}"] = stage.forecast
        metrics[f"work/seconds_{stage.stage}"] = stage.seconds
    for rung in summary.rungs:
        name = f"rungs/{rung.rung}"
        metrics[f"{name}_correlation"] = rung.correlation
        metrics[f"{name}_correlation_low"] = rung.low
        metrics[f"{name}_correlation_high"] = rung.high
        metrics[f"{name}_stops"] = rung.stops
        metrics[f"{name}_trials"] = rung.trials
    metrics |= {f"dense/{task}": value for task, value in summary.dense.scores.items()}
    for state in STATUS:
        metrics[f"trials/{state}"] = sum(record.state == state for record in records)
    if summary.front:
        metrics["retention"] = max(point.retention.mean for point in summary.front)
    return shown(metrics)


def point_metrics(point: FrontPoint) -> dict[str, float]:
    """Return what confirmation adds to the run of a trial."""
    confirmed: dict[str, float | None] = {
        "retention_confirmed": point.retention.mean,
        "retention_confirmed_high": point.retention.high,
        "retention_confirmed_low": point.retention.low,
        "retention_confirmed_seeds": float(point.retention.seeds),
        "latency/measured_seconds": point.measured_latency,
    }
    return shown(confirmed | {f"confirmed/{task}": value for task, value in point.scores.items()})


def point_tags(point: FrontPoint) -> dict[str, str]:
    """Return the tags that mark a confirmed trial: `front` is yes, or dominated."""
    tags = {"front": "dominated" if point.dominated else "yes"}
    if point.baseline:
        tags = {"front": "baseline", "baseline": point.baseline}
    # Written where empty, too: it takes away what an earlier confirmation left.
    tags["tie"] = point.tie
    tags["tied_with"] = ", ".join(str(trial) for trial in point.tied_with)
    return tags


def shown(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return the figures that are known, to six digits: the UI shows all that there are."""
    return {name: _six(float(x)) for name, x in metrics.items() if x is not None}


def _six(value: float) -> float:
    return round(value, 6) if abs(value) >= 0.01 else float(f"{value:.6g}")


def _short(value: Knob) -> Knob:
    """Return a knob's value as it is shown: drawn ones have digits that say nothing."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
