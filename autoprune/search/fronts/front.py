"""Pareto front and hypervolume of (share of parameters or bytes kept, retention)."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""Size (smaller is better) and retention (larger is better)."""

REFERENCE: Point = (1.0, 0.0)
"""Hypervolume's reference point: the whole dense size at no retention."""


def nondominated(points: Sequence[Point]) -> list[int]:
    """Return the indices of the Pareto front, smallest size first.

    A point is dominated when another is no larger and retains no less, and is better in
    one of the two. Of equal points the first stays.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    best = float("-inf")
    for index in order:
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def ranks(points: Sequence[Point]) -> list[int]:
    """Return each point's non-dominated rank: 0 on the front, 1 on the front without it, …"""
    result = [0] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        front = {left[i] for i in nondominated([points[i] for i in left])}
        # Equal points share a rank, although only one of them is listed on the front.
        values = {points[i] for i in front}
        layer = [i for i in left if points[i] in values]
        for index in layer:
            result[index] = rank
        left = [i for i in left if points[i] not in values]
        rank += 1
    return result


def hypervolume(points: Sequence[Point], reference: Point = REFERENCE) -> float:
    """Return the area that ``points`` dominate within ``reference``.

    Sizes are shares of the dense model and retentions are not clipped, so that the ideal
    (no size, full retention) has 1 and a point beyond the reference adds nothing.
    """
    return sum(
        width * (points[index][1] - reference[1])
        for index, width in steps(points, reference).items()
    )


def steps(points: Sequence[Point], reference: Point = REFERENCE) -> dict[int, float]:
    """Return the staircase under ``points``: of each that bears a step its width.

    A step reaches from a point's size to that of the next one on the front, the last one to
    the reference. The hypervolume is the sum of the widths times the heights.
    """
    inside = [i for i, p in enumerate(points) if p[0] < reference[0] and p[1] > reference[1]]
    front = [inside[i] for i in nondominated([points[i] for i in inside])]
    ends = [points[i][0] for i in front[1:]] + [reference[0]]
    return {i: end - points[i][0] for i, end in zip(front, ends, strict=False)}


def contributions(points: Sequence[Point], reference: Point = REFERENCE) -> list[float]:
    """Return how much hypervolume would be lost without each point."""
    whole = hypervolume(points, reference)
    return [
        whole - hypervolume([*points[:i], *points[i + 1 :]], reference) for i in range(len(points))
    ]
