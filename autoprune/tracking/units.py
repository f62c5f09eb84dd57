"""The units that sizes are shown in: parameters by thousands, bytes by 1024."""

from __future__ import annotations

from autoprune.amounts import BYTES, COUNTS, unit_of
from autoprune.tracking.records.summary import SearchSummary


def size_unit(params: int) -> tuple[float, str]:
    """Return the divisor and name of the unit that suits a model of this size."""
    divisor, name = unit_of(params, COUNTS)
    return divisor, name.replace("K", "k")


def seeds_text(count: int) -> str:
    """Return a count of seeds as people say it."""
    return "1 seed" if count == 1 else f"{count} seeds"


def byte_unit(count: int) -> tuple[float, str]:
    """Return the divisor and name of the unit that suits so many bytes."""
    return unit_of(count, BYTES)


def summary_unit(summary: SearchSummary) -> tuple[float, str]:
    """Return the divisor and name of the unit that suits a search's sizes."""
    dense = summary.size(summary.dense)
    return size_unit(dense) if summary.objective == "params" else byte_unit(dense)


def size_label(summary: SearchSummary) -> str:
    """Return what the axis of sizes shows."""
    unit = summary_unit(summary)[1]
    if summary.objective == "bytes":
        return f"stored weights of the whole model ({unit})"
    if summary.objective == "memory":
        return f"memory of the whole model while it answers ({unit})"
    return f"parameters of the whole model ({unit})" if unit else "parameters"


def duration(seconds: float) -> str:
    """Return a time as people say it: 48 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
