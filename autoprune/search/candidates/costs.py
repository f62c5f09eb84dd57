"""What candidates take while they answer, as records have it."""

from __future__ import annotations

from typing import Any

from autoprune.cost.deployment import Kept
from autoprune.models.precision import precision_of
from autoprune.search.candidates.bounds import Bounds
from autoprune.tracking.records.terms import Running


def running_of(bounds: Bounds | None, pruned: Kept, precision: str) -> dict[str, Any]:
    """Return memory and latency as the fields of a record that every item has."""
    if bounds is None:
        return {}
    found: dict[str, Any] = {"memory": bounds.memory(pruned, precision).total}
    if (latency := bounds.latency(pruned, precision)) is not None:
        found["latency"] = latency.seconds
    return found


def shares_of(bounds: Bounds | None, pruned: Kept, precision: str) -> dict[str, Any]:
    """Return memory and latency of a candidate, with their shares of the dense model's.

    The dense model is counted in the dtype that it is worked with in.
    """
    found = running_of(bounds, pruned, precision)
    dense = running_of(bounds, None, precision_of(precision).dtype)
    shares = {f"{unit}_fraction": found[unit] / dense[unit] for unit in dense}
    kind = {"latency_kind": "modelled"} if "latency" in found else {}
    return {**found, **shares, **kind}


def said_of(bounds: Bounds | None) -> Running | None:
    """Return the prompt and the device that memory and latency are said for."""
    if bounds is None:
        return None
    return Running(
        context=bounds.prompt.context,
        images=bounds.prompt.images,
        image_tokens=bounds.prompt.image_tokens,
        image=bounds.prompt.image,
        device="" if bounds.device is None else bounds.device.name,
        latency_kind="" if bounds.device is None else "modelled",
        bounds=tuple(bound.text for bound in bounds.limits),
    )
