"""When is it no longer worth going on? What another hour of sampling is expected to bring.

The best of independent draws is beaten by the n-th with a chance that falls as 1/n, so gains of a
search fall as c/n too, unless it has learned more, or has come to its end. c is estimated from
the gains themselves, the later ones weighing more; so it falls where they dry up and rises where
they come faster. Counted in trials and not on the clock, so that pauses and a busy machine do not
look like the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

POINT = 0.01
"""A point of hypervolume: what ``--patience`` counts in."""

LEAST = 10
"""Sampled trials that must have ended before anything is expected of the next."""


def expected_gain(gains: Sequence[float], seconds: float, horizon: float = 3600.0) -> float | None:
    """Return the hypervolume that another ``horizon`` of sampling is expected to add.

    The gain of the i-th trial is modelled as c / i. i times a gain estimates c; the estimates are
    averaged with weights i. The next k trials then add c ln((n + k) / n).

    Args:
        gains: of hypervolume, by each sampled trial that has ended, in order; 0 for most.
        seconds: that a sampled trial takes, all workers together.
        horizon: seconds to look ahead.

    Returns:
        None before :data:`LEAST` trials.
    """
    count = len(gains)
    if count < LEAST or not seconds > 0:
        return None
    weighted = sum(i * i * gain for i, gain in enumerate(gains, start=1))
    scale = weighted / (count * (count + 1) / 2)
    return scale * math.log1p(horizon / seconds / count)


def exhausted(expected: float | None, patience: float | None) -> bool:
    """Say whether what is expected of an hour is less than ``patience`` points."""
    return expected is not None and patience is not None and expected < patience * POINT
