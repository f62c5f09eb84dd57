"""What a rung adds to a trial's record, how it counts in halving, and how well it has ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.search.fidelity.halving import Arrival, Halving
from autoprune.tracking.records.costs import costs_in, size_in
from autoprune.tracking.records.summary import RungRecord
from autoprune.tracking.records.terms import Budget
from autoprune.tracking.records.trial import TrialRecord


def with_rung(record: TrialRecord, fields: Mapping[str, Any]) -> TrialRecord:
    """Return a trial's record with what a rung has filled.

    Args:
        record: before the rung.
        fields: those of ``TrialRecord`` that are known now; seconds and FLOPs of the rung alone.
    """
    merged = {**record.model_dump(), **fields}
    seconds, flops = dict(record.stage_seconds), record.flops
    rung = int(fields.get("rung", record.rung))
    # A rung that a kill made run twice has been counted.
    if rung > record.rung or not record.stage_seconds:
        for stage, spent in dict(fields.get("stage_seconds", {})).items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        flops = (flops or 0.0) + (fields.get("flops") or 0.0)
    merged |= {"stage_seconds": seconds, "flops": flops}
    value = fields.get("retention")
    if rung == 0 and fields.get("proxy_kl") is not None:
        value = -fields["proxy_kl"]
    merged["rung_values"] = (*record.rung_values[:rung], value)
    short = sum(dict(fields.get("missed", {})).values())
    unknown = (0.0,) * (rung - len(record.rung_missed))
    merged["rung_missed"] = (*record.rung_missed[:rung], *unknown, short)
    return TrialRecord.model_validate(merged)


def rung_values(record: TrialRecord) -> dict[int, float]:
    """Return what a trial had at each rung that measured something."""
    passed = enumerate(record.rung_values)
    return {rung: value for rung, value in passed if value is not None}


def arrival_of(
    record: TrialRecord, rung: int, objective: str, budget: Budget | None = None
) -> Arrival | None:
    """Return how a rung's result counts in halving, or None where it measured nothing.

    What it is below the floors is taken off its value: half recovered, hardly any candidate meets
    them, and were they a bound here, the larger ones of each rung would go on, whatever a small
    one would have come to.

    Args:
        record: of the trial.
        rung: index.
        objective: what a size is, and whether latency counts.
        budget: that candidates are meant to keep; None where nothing bounds them.
    """
    value, costs = rung_values(record).get(rung), costs_in(record, objective)
    if costs is None or value is None or not math.isfinite(value):
        return None
    size, *latency = costs
    known = rung < len(record.rung_missed)
    short = record.rung_missed[rung] if known else record.violation
    return Arrival(
        record.trial,
        size,
        value - short if rung else value,  # before recovery nothing is scored
        record.axis,
        violation(record, budget),
        latency[0] if latency else None,
    )


def violation(record: TrialRecord, budget: Budget | None) -> float:
    """Return by what share a candidate is over the budget, in the unit where that is most.

    0 inside, as decoding means all to be; a record of another version or by another decoder may
    not be.
    """
    if budget is None:
        return 0.0
    over = [
        size_in(record, unit) / bound - 1
        for unit in ("params", "bytes", "memory")
        if (bound := size_in(budget, unit))
    ]
    if budget.latency and record.latency:
        over.append(record.latency / budget.latency - 1)
    return max(0.0, *over)


def rung_records(
    halving: Halving, shares: Sequence[float], early_stopping: bool
) -> tuple[RungRecord, ...]:
    """Return how well each rung but the last ranked trials as their end did.

    A rung of which nothing can be said yet stops the share that it began with (``trust``).

    Args:
        halving: which has seen them.
        shares: of the recovery, by rung.
        early_stopping: whether rungs stop anything.
    """
    found = []
    for rung, share in enumerate(shares[:-1]):
        seen = halving.correlation(rung)
        found.append(
            RungRecord(
                rung=rung,
                share=share,
                trials=seen.trials,
                bins=seen.bins,
                correlation=seen.value,
                low=seen.low,
                high=seen.high,
                stops=halving.share(rung) if early_stopping else 0.0,
            )
        )
    return tuple(found)
