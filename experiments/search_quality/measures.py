"""What is read off a search's trials: its front over cost, and retention at a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autoprune.search.fronts.front import Point, hypervolume, nondominated
from autoprune.tracking.records.trial import OWN
from experiments.search_quality.loop import SMALLEST, picked

Trial = dict[str, Any]


def full(trials: Sequence[Trial], spent: float) -> list[Trial]:
    """Return the trials of full fidelity that ended within ``spent`` FLOPs."""
    return [t for t in trials if t["search"] is not None and t["spent"] <= spent]


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that the search would show: its front by the ``search`` split."""
    points: list[Point] = [(t["size"], t["search"]) for t in trials]
    return [trials[i] for i in nondominated(points)]


def within(trial: Trial) -> float:
    """Return the share of the whole that a trial keeps, no smaller than what was asked for.

    A depth cut ends with a whole layer, and so up to one below the smallest size.
    """
    backbone = (1 - trial["size"]) / trial["removed"]
    return float(1 - min(trial["removed"], SMALLEST) * backbone)


def volume(trials: Sequence[Trial], spent: float) -> float:
    """Return the hypervolume on ``report`` of the front that ``search`` scores chose by then."""
    return hypervolume([(within(t), t["report"]) for t in front(full(trials, spent))])


def curve(trials: Sequence[Trial], budget: float, steps: int = 60) -> list[tuple[float, float]]:
    """Return (FLOPs, hypervolume) at even steps of the budget."""
    costs = [budget * (i + 1) / steps for i in range(steps)]
    return [(cost, volume(trials, cost)) for cost in costs]


def cost_of(trials: Sequence[Trial], reached: Callable[[float], bool]) -> float | None:
    """Return the FLOPs after which the hypervolume first is as wished, or None."""
    for trial in sorted(full(trials, float("inf")), key=lambda t: float(t["spent"])):
        if reached(volume(trials, trial["spent"])):
            return float(trial["spent"])
    return None


def started(trials: Sequence[Trial]) -> float:
    """Return the hypervolume of the enqueued baselines alone."""
    return volume([t for t in trials if t["origin"] not in OWN], float("inf"))


def enqueued(trials: Sequence[Trial]) -> float:
    """Return the FLOPs after which the last enqueued trial has ended."""
    return max((float(t["spent"]) for t in trials if t["origin"] not in OWN), default=0.0)


def at(trials: Sequence[Trial], target: float) -> float | None:
    """Return retention on ``report`` of what the search offers at a size, 0 where nothing."""
    found = picked(list(trials), target)
    return None if found is None else float(found["report"])
