"""Pareto successive halving: which trials are worth the next rung.

Asynchronous, as ASHA (Li et al., arXiv 1810.05934): each trial is judged when it arrives at a
rung, against those that have arrived there before, whatever became of them. Better is decided
by constrained non-dominated rank, then by hypervolume contribution (MO-ASHA, Schmucker et al.,
arXiv 2106.12639). How many a rung stops follows from how well it has been seen to rank, on
trials that are never stopped (``correlation``, ``trust``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from autoprune.search.fidelity.correlation import Correlation, Unstopped, rank_correlation
from autoprune.search.fidelity.trust import stopped_share
from autoprune.search.fronts.front import Point, contributions, ranks
from autoprune.search.sampling.samplers import derived_seed

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Arrival:
    """A trial at a rung.

    Attributes:
        trial: its number.
        size: share of the dense model kept, in the objective's unit; smaller is better.
        value: larger is better; comparable within the rung only (minus the proxy's KL before
            recovery, the retention of a part of the recovery after).
        axis: what was cut.
        violation: share by which it is over the budget; 0 is feasible.
        latency: share of the dense model's, where latency is an objective.
    """

    trial: int
    size: float
    value: float
    axis: str = ""
    violation: float = 0.0
    latency: float | None = None

    @property
    def point(self) -> Point:
        """What it is ranked by."""
        if self.latency is None:
            return (self.size, self.value)
        return (self.size, self.latency, self.value)


@dataclass(frozen=True)
class Verdict:
    """What halving says of an arrival: go on or not, and how many stand before it."""

    stop: bool
    place: int
    among: int
    exempt: bool = False


@dataclass
class Halving:
    """The rungs, and who arrived at each.

    State is only what has arrived and which of the trials that nothing could stop have ended,
    so that it is rebuilt from the trials' records; the order of either does not matter.

    Attributes:
        seed: of the draw of exempt trials.
        first: number of the first trial that is no baseline.
        first_share: most that the first rung (un-recovered proxy) stops; small, and within
            an axis only, since rankings flip after recovery.
        later_share: most that later rungs stop.
        exempt_share: share of the sampled trials that are never stopped; the rank correlation
            between rungs is measured on them, and on the baselines, which are never stopped
            either.
        minimum: arrivals (the new one included) before anything is stopped.
    """

    seed: int = 0
    first: int = 0
    first_share: float = 0.25
    later_share: float = 0.5
    exempt_share: float = 0.15
    minimum: int = 5
    arrivals: dict[int, dict[int, Arrival]] = field(default_factory=dict)
    unstopped: dict[int, Unstopped] = field(default_factory=dict)

    def exempt(self, trial: int) -> bool:
        """Say whether ``trial`` belongs to the seeded share that is never stopped.

        The trials behind the baselines are cut into stretches (of 7, 7, 6, … for 15 %), and one
        of each is drawn: the share is kept from the start, in a short search too.
        """
        place = trial - self.first
        if place < 0 or self.exempt_share <= 0:
            return False
        stretch = math.floor(place * self.exempt_share + _ROUNDING)
        start, stop = (math.ceil((stretch + i) / self.exempt_share - _ROUNDING) for i in (0, 1))
        return place == start + derived_seed(self.seed, stretch, 15) % (stop - start)

    def end(self, ended: Unstopped) -> None:
        """Note the end of a trial that nothing could stop."""
        self.unstopped[ended.trial] = ended

    def correlation(self, rung: int) -> Correlation:
        """Return how far ``rung`` has been seen to rank trials as their end does."""
        return rank_correlation(list(self.unstopped.values()), rung)

    def share(self, rung: int) -> float:
        """Return the share of arrivals that ``rung`` stops: less where it ranks badly."""
        most = self.first_share if rung == 0 else self.later_share
        return stopped_share(most, self.correlation(rung))

    def record(self, rung: int, arrival: Arrival) -> None:
        """Note an arrival without judging it."""
        self.arrivals.setdefault(rung, {})[arrival.trial] = arrival

    def judge(self, rung: int, arrival: Arrival, baseline: bool = False) -> Verdict:
        """Note an arrival, and say whether it goes on.

        Args:
            rung: index of the rung, 0 the first.
            arrival: the trial.
            baseline: enqueued configurations are never stopped.
        """
        self.record(rung, arrival)
        peers = list(self.arrivals[rung].values())
        if rung == 0:
            peers = [p for p in peers if p.axis == arrival.axis]
        keys = _keys(peers)
        place = sum(key < keys[arrival.trial] for key in keys.values())
        worst = place >= math.ceil(len(peers) * (1.0 - self.share(rung)))
        exempt = baseline or self.exempt(arrival.trial)
        enough = len(peers) >= self.minimum
        return Verdict(worst and enough and not exempt, place, len(peers), exempt)


def order(arrivals: Sequence[Arrival]) -> list[int]:
    """Return the trials' numbers, best first.

    Feasible before infeasible (by violation); then by non-dominated rank; within a rank by
    hypervolume contribution to that rank; then by number.
    """
    keys = _keys(arrivals)
    return sorted(keys, key=lambda trial: (keys[trial], trial))


def _keys(arrivals: Sequence[Arrival]) -> dict[int, tuple[float, float, float]]:
    """Return what trials are compared by, smaller is better; equal for equal arrivals.

    Recipes of one plan are equal before recovery. Together they contribute what one of them would:
    counted one by one they would contribute nothing, and the last of them would come last.
    """
    keys = {a.trial: (a.violation, 0.0, 0.0) for a in arrivals if a.violation > 0}
    feasible = [a for a in arrivals if a.violation <= 0]
    points = sorted({a.point for a in feasible})
    layers = ranks(points)
    corner = _corner(points)
    found: dict[Point, tuple[float, float, float]] = {}
    for layer in set(layers):
        members = [point for point, rank in zip(points, layers, strict=True) if rank == layer]
        gains = contributions(members, corner)
        found |= {p: (0.0, layer, -gain) for p, gain in zip(members, gains, strict=True)}
    return keys | {a.trial: found[a.point] for a in feasible}


def _corner(points: Sequence[Point]) -> Point:
    """Return the hypervolume's reference: (1, 0), or below all values where they go below 0."""
    values = [point[-1] for point in points] or [0.0]
    lowest = min(values)
    return (1.0, 0.0 if lowest > 0 else lowest - ((max(values) - lowest) or 1.0))
