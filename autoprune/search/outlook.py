"""What a search's own records say of what is still to come: gain, and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoprune.search.fronts.front import Point, hypervolume, nondominated
from autoprune.search.sampling.refine import REFINE
from autoprune.search.settings import SearchSettings
from autoprune.tracking.records.costs import point_of
from autoprune.tracking.records.trial import OWN, SAMPLED, TrialRecord

ENDED = ("complete", "stopped", "failed")

FEW = 3
"""So many trials tell what the next ones will take."""


def sampled_gains(records: Iterable[TrialRecord], objective: str) -> list[float]:
    """Return what each ended proposal added to the hypervolume, in order.

    In the order of their numbers, so that a resumed search finds the same. What baselines and
    refinements reached before a trial is not its gain.
    """
    gains: list[float] = []
    front: list[Point] = []
    volume = 0.0
    for record in sorted(records, key=lambda record: record.trial):
        if record.state not in ENDED:
            continue
        gain = 0.0
        if record.state == "complete" and record.fidelity >= 1.0 and not record.violation:
            front.append(point_of(record, objective))
            front = [front[i] for i in nondominated(front)]
            volume, before = hypervolume(front), volume
            gain = volume - before
        if record.origin in SAMPLED:
            gains.append(gain)
    return gains


def seconds_a_trial(records: Iterable[TrialRecord], workers: int) -> float:
    """Return the seconds that ended proposals took on average, all workers together."""
    took = [
        sum(record.stage_seconds.values())
        for record in records
        if record.origin in SAMPLED and record.state in ENDED and record.stage_seconds
    ]
    return sum(took) / len(took) / workers if took else 0.0


def trials_left(records: Iterable[TrialRecord], settings: SearchSettings) -> float | None:
    """Return the seconds until a search's last trial ends; None before one has ended.

    What is still to come are proposals and refinements, cheaper than the baselines that run
    first; so those count alone as soon as :data:`FEW` of them have ended. A running trial is
    taken to be half done.
    """
    known = list(records)
    ended = [r for r in known if r.state in ENDED]
    costs = [
        (r.origin in OWN, sum(r.stage_seconds.values()))
        for r in ended
        if r.stage_seconds and r.state != "failed"
    ]
    if not costs:
        return None
    own = [took for mine, took in costs if mine]
    took = own if len(own) >= FEW else [took for _, took in costs]
    running = sum(record.state == "running" for record in known)
    ahead = max(0.0, settings.trials - len(ended) - running / 2)
    return ahead * sum(took) / len(took) / settings.workers


def evaluations(rungs: Sequence[float], rung_share: float) -> float:
    """Return how often a whole trial is scored, counted in evaluations on all images.

    Args:
        rungs: of its space; nothing is scored at 0, and all images at 1 only.
        rung_share: share of the images at the others.
    """
    return 1.0 + rung_share * sum(0 < share < 1 for share in rungs)


def confirmation_seconds(
    records: Iterable[TrialRecord],
    front: Sequence[TrialRecord],
    settings: SearchSettings,
    scored: float,
    share: float,
) -> float:
    """Return the seconds that confirming ``front`` and the baselines would take.

    Args:
        records: of the search.
        front: its unconfirmed front.
        settings: of the search.
        scored: evaluations of a whole trial, see :func:`evaluations`.
        share: questions of a confirmation, against those of one such evaluation.
    """
    full = [r for r in records if r.state == "complete" and r.baseline is not None]
    chosen = front[: settings.confirm_points]
    own = {record.trial for record in chosen}
    scale = share / scored
    # What a run of the confirmation has no need of: the plan is known, and no proxy decides.
    idle = ("evaluate", "proxy", REFINE)
    total = 0.0
    for record in [*chosen, *(r for r in full if r.trial not in own)]:
        took = record.stage_seconds
        total += sum(spent for stage, spent in took.items() if stage not in idle)
        total += took.get("evaluate", 0.0) * scale
    return total * settings.confirm_seeds / settings.workers
