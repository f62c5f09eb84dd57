"""A front member's knobs at another size, where that promises most.

What keeps much at one size keeps much at the next, and a sampler that draws each knob anew is
slow to find that out. So every second proposal is a member of the front whose size alone is
changed: an ordinary point of the space, which the sampler learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from autoprune.search.fronts.front import hypervolume
from autoprune.search.knobs.space import Range, Space
from autoprune.search.knobs.table import Value
from autoprune.tracking.records.trial import TrialRecord

SLIDE = "slide"
"""Origin of such trials."""

EVERY = 2
"""Of so many proposals one is such."""

STEPS = 8
"""Parts of the size range, where its knob has no steps of its own."""

DOWN, UP = 16.0, 0.2
"""What the whole way down or up the range of sizes is thought to make of the loss of retention.

The way down doubles it each quarter. The way up is worth less than the inverse, so that of two
members that are as good the nearer one is taken.
"""

LEAST_LOSS = 0.01
"""Loss of retention that a member has at least: below it lies noise."""


def due(proposals: int) -> bool:
    """Say whether the next proposal is to be such a one, behind so many."""
    return proposals % EVERY == EVERY - 1


def slid(
    front: Sequence[TrialRecord],
    records: Iterable[TrialRecord],
    space: Space,
    holds: Callable[[Mapping[str, Value]], bool],
) -> tuple[int, dict[str, Value]] | None:
    """Return the trial whose knobs to take, and these at the size that promises most.

    What a member promises at another size is the hypervolume that it would add there, in units
    of the knob ``size``, with the retention of :func:`expected`.

    Args:
        front: members of full fidelity.
        records: all trials; what was tried is not tried again.
        space: of which the knob ``size`` counts.
        holds: says whether knobs lie within what is sampled; members that do not, and those
            that knobs do not describe, are no parents.

    Returns:
        None where nothing promises anything.
    """
    sized = [(size, r) for r in front if (size := _size(r)) is not None]
    points = [(size, record.retention or 0.0) for size, record in sized]
    reference = (1.0 + 1.0 / STEPS, 0.0)
    volume = hypervolume(points, reference)
    tried = [record.given for record in records]
    best, most = None, 0.0
    for start, parent in sized:
        if parent.layout is not None or not holds(parent.given):
            continue
        for size in _sizes(space):
            knobs = {**parent.given, "size": size}
            point = (size, expected(parent.retention or 0.0, start, size))
            gain = hypervolume([*points, point], reference) - volume
            if gain > most and knobs not in tried:
                best, most = (parent.trial, knobs), gain
    return best


def expected(retention: float, start: float, size: float) -> float:
    """Return the retention that a member at ``start`` is thought to have at ``size``.

    Args:
        retention: of the member.
        start, size: values of the knob ``size``.
    """
    loss = max(LEAST_LOSS, 1.0 - retention)
    return 1.0 - loss * (DOWN ** (start - size) if size < start else UP ** (size - start))


def _size(record: TrialRecord) -> float | None:
    size = record.knobs.get("size")
    return float(size) if isinstance(size, (int, float)) else None


def _sizes(space: Space) -> list[float]:
    domain = space.knobs.get("size")
    if not isinstance(domain, Range):
        return []
    step = domain.step or (domain.high - domain.low) / STEPS
    count = round((domain.high - domain.low) / step)
    return [min(domain.high, domain.low + place * step) for place in range(count + 1)]
