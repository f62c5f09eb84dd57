"""How much a rung may stop, given how well it ranks.

A rung errs where it stops a trial that would have ended among the best. With ranks of a rung and
of the end taken as bivariate normal, that risk follows from the share that is stopped and from
the rank correlation. A rung stops its own share where the risk is small enough, and else the
largest share at which it is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

from autoprune.search.fidelity.correlation import Correlation

BEST = 0.25
"""Share of trials that it matters not to lose: those that end in the best quarter."""

RISK = 0.1
"""Of those, a rung may lose one in ten. So a rung that ranks nothing stops a tenth; the bottom
quarter takes a rank correlation of 0.4, the bottom half one of 0.73."""

PRIOR = 6
"""Degrees of freedom that a measured correlation is weighed against: few trials move little."""

MOST = 0.999
"""Correlations are held below this here."""

_NORMAL = NormalDist()
_POINTS = 100
_STEPS = 20


def stopped_share(share: float, measured: Correlation) -> float:
    """Return the share that a rung stops: its own, or less where it ranks badly.

    What is measured is drawn, by :data:`PRIOR`, towards the correlation at which the rung's own
    share is just right; so nothing changes before there is something to go by, and a single
    unlucky trial changes little.

    Args:
        share: that the rung would stop.
        measured: its correlation with the end, so far.
    """
    if measured.value is None:
        return share
    expected = math.atanh(needed(share))
    found = math.atanh(min(max(measured.value, -MOST), MOST))
    z = (PRIOR * expected + measured.freedom * found) / (PRIOR + measured.freedom)
    return min(share, _share_at(round(max(0.0, math.tanh(z)), 3)))


@lru_cache(maxsize=1024)
def needed(share: float) -> float:
    """Return the rank correlation at which stopping ``share`` loses :data:`RISK` of the best."""
    low, high = 0.0, MOST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(share, middle) > RISK else (low, middle)
    return (low + high) / 2


@lru_cache(maxsize=4096)
def _share_at(rho: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if lost(middle, rho) > RISK else (middle, high)
    return (low + high) / 2


def lost(share: float, rho: float) -> float:
    """Return the share of those that end in the best quarter that a rung stops.

    Args:
        share: of the trials that it stops, from below.
        rho: Spearman's correlation of the rung with the end, in [0, 1); bivariate normal ranks,
            so that Pearson's is 2 sin(pi rho / 6).
    """
    r = 2 * math.sin(math.pi * rho / 6)
    cut = _NORMAL.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
    noise = math.sqrt(max(1e-9, 1 - r * r))
    ends = (_NORMAL.inv_cdf(1 - BEST * (i + 0.5) / _POINTS) for i in range(_POINTS))
    return sum(_NORMAL.cdf((cut - r * end) / noise) for end in ends) / _POINTS
