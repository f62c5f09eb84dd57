"""Seeded fractions of a data set, nested and stratified: 5 % ⊂ 20 % ⊂ 100 %."""

from __future__ import annotations

import heapq
from functools import lru_cache

import numpy as np

from autoprune.errors import AutoPruneError


def nested_fraction(ring: np.ndarray, strata: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return which samples make up ``fraction`` of a set, each counted once.

    A seeded start is drawn on the ring, and every stratum gives its first samples from there
    on. Fractions of one seed are nested, hold ``round(fraction * n)`` samples (at least one),
    and are stratified: every stratum is within one sample of its share.

    Args:
        ring: ``float64 [n]`` in [0, 1), see ``SampleSet.ring``.
        strata: ``int64 [n]``, any labels.
        fraction: share of the samples, in (0, 1].
        seed: draws the start, and the order of samples that stand at one place.

    Returns:
        Sorted ``int64`` indices.

    Raises:
        AutoPruneError: for a fraction outside (0, 1], or a set without samples.
    """
    check_fraction(fraction)
    total = len(ring)
    if total == 0:
        raise AutoPruneError("the data set has no samples to take a fraction of; give some")
    wanted = max(1, int(fraction * total + 0.5))
    rng = np.random.default_rng(seed)
    start = rng.random()
    order = np.lexsort((rng.permutation(total), np.mod(np.asarray(ring) - start, 1.0)))
    _, labels, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    turns = _fair_turns(tuple(sizes.tolist()))[:wanted]
    quota = np.bincount(turns, minlength=len(sizes))
    chosen = [order[labels[order] == s][: quota[s]] for s in range(len(sizes))]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def check_fraction(fraction: float) -> None:
    """Refuse a data fraction outside (0, 1].

    Raises:
        AutoPruneError: naming the value.
    """
    if not 0 < fraction <= 1:
        raise AutoPruneError(
            f"data fraction {fraction:g} is outside (0, 1]: write 0.05 for 5 %, 1 for all"
        )


@lru_cache(maxsize=8)
def _fair_turns(sizes: tuple[int, ...]) -> np.ndarray:
    """Return which stratum the k-th sample comes from, ``int64 [sum(sizes)]``.

    Every prefix of length k holds ``k * size / total`` samples of each stratum, less than one
    off: Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980),
    as an earliest-deadline schedule in whole numbers. Rounding each stratum by itself would
    miss the total, and rounding to the total (largest remainders) would not be nested.
    """
    total = sum(sizes)
    if len(sizes) == 1:
        return np.zeros(total, dtype=np.int64)
    slack = 2 * len(sizes) - 2

    def window(stratum: int, taken: int) -> tuple[int, int]:
        """First and last place in which the stratum's next sample may stand."""
        step = slack * sizes[stratum]
        release = -(-total * (taken * slack + 1) // step)
        return release, total * ((taken + 1) * slack - 1) // step + 1

    waiting: list[tuple[int, int, int]] = []
    for stratum in range(len(sizes)):
        release, deadline = window(stratum, 0)
        waiting.append((release, deadline, stratum))
    heapq.heapify(waiting)
    ready: list[tuple[int, int]] = []
    taken = [0] * len(sizes)
    turns = np.empty(total, dtype=np.int64)
    for place in range(1, total + 1):
        while waiting and waiting[0][0] <= place:
            _, deadline, stratum = heapq.heappop(waiting)
            heapq.heappush(ready, (deadline, stratum))
        _, stratum = heapq.heappop(ready)
        turns[place - 1] = stratum
        taken[stratum] += 1
        if taken[stratum] < sizes[stratum]:
            release, deadline = window(stratum, taken[stratum])
            heapq.heappush(waiting, (release, deadline, stratum))
    turns.setflags(write=False)
    return turns
