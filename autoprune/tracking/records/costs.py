"""What an objective wants small: sizes in its unit, and latency where it counts."""

from __future__ import annotations

from typing import Literal

from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import TrialRecord

Objective = Literal["params", "bytes", "memory"]

TIMED = "+latency"
"""Behind a unit of size: latency counts beside it."""


def share_in(item: TrialRecord | FrontPoint, objective: str) -> float | None:
    """Return the share of the dense model that is kept, in the unit of ``objective``."""
    size, _ = split_objective(objective)
    return {"bytes": item.bytes_fraction, "memory": item.memory_fraction}.get(size, item.fraction)


def size_in(item: TrialRecord | FrontPoint | Dense | Budget, objective: str) -> int:
    """Return a size in the unit of ``objective``; 0 where it is not known."""
    size, _ = split_objective(objective)
    return {"bytes": item.bytes, "memory": item.memory}.get(size, item.params) or 0


def split_objective(objective: str) -> tuple[str, bool]:
    """Return the unit of sizes that an objective means, and whether latency counts beside it."""
    size = objective.removesuffix(TIMED)
    return size, size != objective


def objective_of(size: str, timed: bool) -> str:
    """Return what a front is drawn over: a unit of sizes, and latency behind it where it counts."""
    return f"{size}{TIMED if timed else ''}"


def costs_in(item: TrialRecord | FrontPoint, objective: str) -> tuple[float, ...] | None:
    """Return what an objective wants small: the share of size kept, and of latency where it counts.

    None where one of them is not known.
    """
    costs = [share_in(item, objective)]
    if split_objective(objective)[1]:
        costs.append(item.latency_fraction)
    known = tuple(cost for cost in costs if cost is not None)
    return known if len(known) == len(costs) else None


def point_of(record: TrialRecord, objective: str) -> tuple[float, ...]:
    """Return a trial as a point: costs, of which an unknown one counts 1, and its retention."""
    unknown = (1.0, 1.0) if split_objective(objective)[1] else (1.0,)
    return (*(costs_in(record, objective) or unknown), record.retention or 0.0)
