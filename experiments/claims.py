"""Claims about differences: their intervals, their p-values, and Holm's correction over a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.evaluation.retention import paired_difference
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior


@dataclass(frozen=True)
class Claim:
    """A difference and whether zero (or ``margin``) is outside its interval.

    Attributes:
        mean, low, high: of the difference, with its 95 % interval.
        p: two-sided: the smallest 1 - level at which the interval leaves out ``-margin``.
        margin: 0 for "differs"; 0.01 for "is no worse by more than one point".
    """

    mean: float
    low: float
    high: float
    p: float
    margin: float = 0.0


def difference(
    a: Sequence[TaskScores],
    b: Sequence[TaskScores],
    dense: TaskScores,
    *,
    prior: SeedPrior | None = None,
    margin: float = 0.0,
) -> Claim:
    """Return retention of ``a`` minus that of ``b`` (one element a seed), paired over images.

    The p-value inverts the interval of :func:`paired_difference`: the level is bisected.
    """
    resamples = 2000

    def at(level: float) -> tuple[float, float, float]:
        found = paired_difference(a, b, dense, level=level, prior=prior, resamples=resamples)
        return found.mean, found.low, found.high

    mean, low, high = at(0.95)

    def outside(level: float) -> bool:
        _, left, right = at(level)
        return not left <= -margin <= right

    lowest, highest = 0.0, 0.9999
    if outside(highest):
        return Claim(mean, low, high, 1 - highest, margin)
    for _ in range(9):
        middle = (lowest + highest) / 2
        lowest, highest = (middle, highest) if outside(middle) else (lowest, middle)
    return Claim(mean, low, high, 1 - (lowest + highest) / 2, margin)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values (Holm 1979), by the same names."""
    adjusted: dict[str, float] = {}
    worst = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = worst
    return adjusted


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return mean and Student interval of values, one a seed."""
    from scipy.stats import t as student

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = float(student.ppf(0.5 + level / 2, len(x) - 1)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def of_seeds(gaps: Sequence[float]) -> Claim:
    """Return the mean of paired differences, one a seed, as a claim by Student's paired test.

    With one difference interval and p are nan.
    """
    from scipy.stats import t as student

    x, p = np.asarray(gaps, dtype=np.float64), float("nan")
    if len(x) > 1:
        error = float(x.std(ddof=1)) / len(x) ** 0.5
        p = float(2 * student.sf(abs(x.mean()) / error, len(x) - 1)) if error else 0.0
    return Claim(*mean_interval(gaps), p)


def claim_text(claim: Claim, digits: int) -> str:
    """Return ``+mean (+low … +high)``; the mean alone where there is no interval."""
    text = f"{claim.mean:+.{digits}f}"
    if np.isnan(claim.low):
        return text
    return f"{text} ({claim.low:+.{digits}f} … {claim.high:+.{digits}f})"


def adjusted_text(claims: Mapping[str, Claim]) -> dict[str, str]:
    """Return Holm's p over those claims that have one, as text; "" for the others."""
    adjusted = holm({name: c.p for name, c in claims.items() if not np.isnan(c.p)})
    return {name: f"{adjusted[name]:.2g}" if name in adjusted else "" for name in claims}
