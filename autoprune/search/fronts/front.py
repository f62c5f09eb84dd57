"""Pareto front and hypervolume of (share of the size kept, retention), with latency or without.

A point is what is to be small, and behind it what is to be large: (size, retention), or (size,
latency, retention), each a share of the dense model's. All here is exact in either number of
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, ...]
"""Size, or size and latency (smaller is better), and at last retention (larger is better)."""

REFERENCE: Point = (1.0, 0.0)
"""Hypervolume's reference point: the whole dense size (and its latency) at no retention."""


def nondominated(points: Sequence[Point]) -> list[int]:
    """Return the indices of the Pareto front, smallest size first.

    A point is dominated when another is no larger and retains no less, and is better in
    one of the two. Of equal points the first stays.
    """
    order = sorted(
        range(len(points)), key=lambda i: (points[i][0], -points[i][-1], *points[i][1:-1], i)
    )
    if points and len(points[0]) > 2:
        return _of_many(points, order)
    front: list[int] = []
    best = float("-inf")
    for index in order:
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def _of_many(points: Sequence[Point], order: Sequence[int]) -> list[int]:
    front: list[int] = []
    for index in order:
        point = points[index]
        free = (other for other in order if other != index)
        if any(dominates(points[o], point) for o in free):
            continue
        if all(points[f] != point for f in front):
            front.append(index)
    return front


def dominates(a: Point, b: Point) -> bool:
    """Say whether ``a`` is nowhere worse than ``b``, and somewhere better."""
    return no_larger(a, b) and a[-1] >= b[-1] and a != b


def no_larger(a: Sequence[float], b: Sequence[float]) -> bool:
    """Say whether a point is no larger than another in all that is to be small."""
    return all(x <= y for x, y in zip(a[:-1], b[:-1], strict=True))


def reference_of(points: Sequence[Point], reference: Point) -> Point:
    """Return a reference with as many costs as the points have."""
    costs = len(points[0]) - 1 if points else 1
    return (*((reference[0],) * costs), reference[-1]) if len(reference) == 2 else reference


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
    """Return the area (volume, where latency counts) that ``points`` dominate.

    It is counted within ``reference``, whose first entry stands for all costs.

    Sizes are shares of the dense model and retentions are not clipped, so that the ideal
    (no size, full retention) has 1 and a point beyond the reference adds nothing.
    """
    return sum(
        width * (points[index][-1] - reference[-1])
        for index, width in steps(points, reference).items()
    )


def steps(points: Sequence[Point], reference: Point = REFERENCE) -> dict[int, float]:
    """Return the staircase under ``points``: of each that bears a step its width.

    A step reaches from a point's size to that of the next one on the front, the last one to
    the reference. The hypervolume is the sum of the widths times the heights.
    """
    reference = reference_of(points, reference)
    inside = [
        i
        for i, p in enumerate(points)
        if p[-1] > reference[-1]
        and all(cost < bound for cost, bound in zip(p[:-1], reference[:-1], strict=True))
    ]
    front = [inside[i] for i in nondominated([points[i] for i in inside])]
    if len(reference) > 2:
        return _floors(points, front, reference)
    ends = [points[i][0] for i in front[1:]] + [reference[0]]
    return {i: end - points[i][0] for i, end in zip(front, ends, strict=False)}


def _floors(points: Sequence[Point], front: Sequence[int], reference: Point) -> dict[int, float]:
    """Return of each point the area of sizes and latencies where it is the best to be had.

    Sizes and latencies of the front cut the area into cells; each cell bears the highest of the
    points that reach it.
    """
    found = dict.fromkeys(front, 0.0)
    xs = [*sorted({points[i][0] for i in front}), reference[0]]
    ys = [*sorted({points[i][1] for i in front}), reference[1]]
    for x, right in pairwise(xs):
        for y, top in pairwise(ys):
            reached = [i for i in front if points[i][0] <= x and points[i][1] <= y]
            if reached:
                best = max(reached, key=lambda i: points[i][-1])
                found[best] += (right - x) * (top - y)
    return found


def contributions(points: Sequence[Point], reference: Point = REFERENCE) -> list[float]:
    """Return how much hypervolume would be lost without each point."""
    whole = hypervolume(points, reference)
    return [
        whole - hypervolume([*points[:i], *points[i + 1 :]], reference) for i in range(len(points))
    ]
