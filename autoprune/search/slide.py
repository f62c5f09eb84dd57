"""A front member's knobs at another size, where the front has its widest gap.

What keeps much at one size keeps much at the next, and a sampler that draws each knob anew is
slow to find that out. So every third of its proposals is a member of the front whose size alone
is changed: an ordinary point of the space, which the sampler learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from autoprune.search.space import Range, Space, Value
from autoprune.tracking.records import TrialRecord

SLIDE = "slide"
"""Origin of such trials."""

EVERY = 3
"""Of so many proposals one is such."""

STEPS = 8
"""Parts of the size range, where its knob has no steps of its own."""

SLOPE = 0.2
"""What a larger model is thought to retain more, a unit of ``size``, beyond the front's ends."""

_Place = tuple[float, float]
"""A member's size, as its knob has it, and its retention."""


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

    What a size promises is an area: the height that its neighbours let one expect over what the
    front already retains there, as far as the next larger member. The parent is the nearest
    member in size that knobs of the space describe.

    Args:
        front: members of full fidelity.
        records: all trials; what was tried is not tried again.
        space: of which the knob ``size`` counts.
        holds: says whether knobs lie within what is sampled.

    Returns:
        None where the space has no range of sizes, or all of them were tried.
    """
    sized = [(size, r) for r in front if (size := _size(r)) is not None]
    places = sorted((size, record.retention or 0.0) for size, record in sized)
    parents = [(s, r) for s, r in sized if r.layout is None and holds(_given(r))]
    tried = [_given(record) for record in records]
    best: tuple[float, int, dict[str, Value]] | None = None
    for size in _sizes(space) if parents else []:
        _, parent = min(parents, key=lambda sized: abs(sized[0] - size))
        knobs = {**_given(parent), "size": size}
        if knobs in tried:
            continue
        area = _promise(size, places)
        if best is None or area > best[0]:
            best = area, parent.trial, knobs
    return None if best is None else best[1:]


def _size(record: TrialRecord) -> float | None:
    size = record.knobs.get("size")
    return float(size) if isinstance(size, (int, float)) else None


def _given(record: TrialRecord) -> dict[str, Value]:
    return {name: value for name, value in record.knobs.items() if value is not None}


def _promise(size: float, places: Sequence[_Place]) -> float:
    """Return the hypervolume that a trial at ``size`` is expected to add, in units of ``size``."""
    below = [place for place in places if place[0] <= size]
    above = [place for place in places if place[0] > size]
    reached = max((kept for _, kept in below), default=0.0)
    if below and above:
        (left, low), (right, high) = below[-1], above[0]
        expected = low + (high - low) * (size - left) / (right - left)
    else:
        near, kept = above[0] if above else below[-1]
        expected = kept + SLOPE * (size - near)
    end = above[0][0] if above else 1.0 + 1.0 / STEPS
    return max(0.0, expected - reached) * (end - size)


def _sizes(space: Space) -> list[float]:
    domain = space.knobs.get("size")
    if not isinstance(domain, Range):
        return []
    step = domain.step or (domain.high - domain.low) / STEPS
    count = round((domain.high - domain.low) / step)
    return [min(domain.high, domain.low + place * step) for place in range(count + 1)]
