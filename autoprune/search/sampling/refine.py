"""Local refinement: small moves from the front's members, the last part of a search.

The driver chooses whose neighbourhood is looked at; a worker climbs there for a few cheap steps
by the un-recovered proxy, as EvoPress does (Sieberling et al., arXiv 2410.14649), and recovers
and scores what it has found like any other trial. The recipe stays the parent's, and so does
the size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.pruning.layout import Layout
from autoprune.search.fronts.front import Point, contributions
from autoprune.search.sampling.samplers import derived_seed
from autoprune.tracking.records.trial import TrialRecord

REFINE = "refine"
"""Origin of refined trials, and the stage that their climb is counted under."""

GENERATIONS, OFFSPRING, MOST_MOVES = 2, 4, 3
"""Of a climb: generations, offspring of each, and most moves that lead to one."""

Propose = Callable[[Layout, int, int], Layout]
"""Layout, seed and number of moves -> another layout; raises AutoPruneError where none is."""


def refined_trials(trials: int, share: float) -> int:
    """Return how many of a search's trials are refinement."""
    return round(trials * share)


def probes_of_climb() -> int:
    """Return how many un-recovered candidates a refined trial measures by the proxy."""
    return 1 + GENERATIONS * OFFSPRING


def choose_parent(
    front: Sequence[TrialRecord], points: Sequence[Point], records: Iterable[TrialRecord]
) -> TrialRecord | None:
    """Return the member of the front to start from: fewest children, then largest contribution.

    Args:
        front: members, of full fidelity.
        points: of each.
        records: all trials. One that failed is a child too: of a parent that nothing can be
            moved in, all would fail.
    """
    children = Counter(record.parent for record in records if record.origin == REFINE)
    gains = contributions(points)
    order = [(children[r.trial], -gain, r.trial) for r, gain in zip(front, gains, strict=True)]
    return front[order.index(min(order))] if order else None


@dataclass(frozen=True)
class Climbed:
    """What a climb has found.

    Attributes:
        layout: the best that is not the parent's.
        value: of it, smaller is better.
        start: value of the parent's.
    """

    layout: Layout
    value: float
    start: float


def climb(
    start: Layout, propose: Propose, score: Callable[[Layout], float], seed: int, number: int
) -> Climbed:
    """Climb a few generations from ``start``; its own layout never comes back.

    Each generation's offspring are 1 to ``MOST_MOVES`` moves (the smaller of two draws) from the
    best layout so far, which the parent's may be.

    Args:
        start: layout of the parent.
        propose: the moves.
        score: smaller is better; not finite where there is no figure.
        seed, number: of the search and of the trial; the same give the same climb.

    Raises:
        AutoPruneError: if nothing can be moved.
    """
    rng = np.random.default_rng(derived_seed(seed, number, 5))
    first = score(start)
    seen = {start: first if math.isfinite(first) else math.inf}
    error: AutoPruneError | None = None
    for _ in range(GENERATIONS):
        best = min(seen, key=lambda layout: seen[layout])
        for _ in range(OFFSPRING):
            moves = int(rng.integers(1, MOST_MOVES + 1, size=2).min())
            try:
                new = propose(best, int(rng.integers(2**31)), moves)
            except AutoPruneError as raised:
                error = raised
                continue
            if new not in seen:
                value = score(new)
                seen[new] = value if math.isfinite(value) else math.inf
    del seen[start]
    if not seen:
        raise error or AutoPruneError("no move leads away: search without it (--refine 0)")
    best = min(seen, key=lambda layout: seen[layout])
    return Climbed(best, seen[best], first)
