"""What the search was asked to reach, and what it reached; differences are paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.cells import Row
from experiments.claims import Claim, mean_interval, of_seeds
from experiments.search_quality.measures import cost_of, enqueued, started, volume

Seeds = dict[int, Row]
"""Searches of one arm by seed."""

MOST = 2.0
"""What a ratio of costs counts as where the goal is not reached within the budget."""


def final(row: Row) -> float:
    """Return the hypervolume at the end of the budget."""
    return volume(row["trials"], float("inf"))


def text(values: Sequence[float], digits: int = 3) -> str:
    """Return ``mean (low … high)``."""
    mean, low, high = mean_interval(list(values))
    if len(values) < 2:
        return f"{mean:.{digits}f} (one search)"
    return f"{mean:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def ideal() -> float:
    """Return the hypervolume of all ability at the smallest size that is searched.

    All dense models here have the embedded one's shape.
    """
    from autoprune.pipeline.prepare import inspect
    from experiments.search_quality.loop import SMALLEST

    spec = inspect("embedded").spec
    kept = spec.outside_params + (1 - SMALLEST) * spec.backbone_params
    return 1 - kept / spec.total_params


def difference(a: Seeds, b: Seeds) -> Claim | None:
    """Return the difference of the last hypervolumes over the seeds both have; None: no seed."""
    gaps = [final(a[seed]) - final(b[seed]) for seed in sorted(set(a) & set(b))]
    return of_seeds(gaps) if gaps else None


def targets(arms: dict[str, Seeds]) -> list[tuple[str, str, str]]:
    """Return what was asked, what was measured, and whether it is met."""
    full, random = arms["full"], arms.get("random", {})
    out = []
    if random:
        values = closed(full, random)
        out.append(row("gap to the ideal closed, at least 0.30", values, 0.3, least=True))
        asked = "cost at which random's last hypervolume is reached, at most 0.50 of all of it"
        out.append(row(asked, reached(full, random), 0.5))
    if "no-fidelity" in arms:
        whole, behind = of_gain(full, arms["no-fidelity"])
        asked = "cost of 95 % of the gain, of what it costs at full fidelity, at most 0.50"
        out.append(row(asked, whole, 0.5))
        if behind:
            asked = "the same, counted from the end of the enqueued trials, which both run in full"
            out.append(row(asked, behind, 0.5))
    if "random-halving" in arms and random:
        whole, _ = of_gain(arms["random-halving"], random, 1.0)
        asked = "cost at which random search with multi-fidelity comes where it ends without"
        out.append(row(asked, whole, 0.5))
    return out


def row(asked: str, values: Sequence[float], wanted: float, least: bool = False) -> tuple[str, ...]:
    """Return one line of the table of targets; ``least``: whether more is better."""
    mean, low, high = mean_interval(list(values))
    if least:
        return asked, text(values, 2), verdict(mean, low, wanted)
    return asked, text(values, 2), verdict(-mean, -high, -wanted)


def verdict(mean: float, low: float, wanted: float) -> str:
    """Say whether a target is met, with what certainty."""
    if low >= wanted:
        return "met"
    return "met in the mean, not shown" if mean >= wanted else "missed"


def closed(full: Seeds, random: Seeds) -> list[float]:
    """Return the share of the gap between random search and the ideal that is closed."""
    both = sorted(set(full) & set(random))
    gap = np.mean([ideal() - final(random[seed]) for seed in both])
    return [(final(full[seed]) - final(random[seed])) / float(gap) for seed in both]


def reached(full: Seeds, random: Seeds) -> list[float]:
    """Return the share of all cost, preparation included, at which random's end is reached."""
    shares = []
    for seed in sorted(set(full) & set(random)):
        cost = at_least(full[seed], final(random[seed]))
        ready = full[seed]["prepared"]
        shares.append(min((cost + ready) / (full[seed]["budget"] + ready), 1.0))
    return shares


def of_gain(some: Seeds, other: Seeds, part: float = 0.95) -> tuple[list[float], list[float]]:
    """Return what a part of ``other``'s gain over what it enqueued costs, as a share of its own.

    Returns:
        The share of all cost, and the share of the cost that follows the enqueued trials.
    """
    whole, behind = [], []
    for seed in sorted(set(some) & set(other)):
        mine, theirs = some[seed], other[seed]
        start = started(theirs["trials"])
        goal = start + part * (final(theirs) - start)
        cost, whose = at_least(mine, goal), at_least(theirs, goal)
        if not np.isfinite(whose):
            continue
        ready, first = mine["prepared"], enqueued(theirs["trials"])
        whole.append(min((cost + ready) / (whose + ready), MOST))
        if whose > first:
            behind.append(min((cost - enqueued(mine["trials"])) / (whose - first), MOST))
    return whole, behind


def at_least(search: Row, goal: float) -> float:
    """Return the cost at which a search's hypervolume reaches ``goal``; infinite: never."""
    meets: Callable[[float], bool] = lambda volume: volume >= goal  # noqa: E731
    cost = cost_of(search["trials"], meets)
    return float("inf") if cost is None else cost
