"""The choice: what fits, which of that is best, and why everything else lost.

A point is *beaten* where another that fits keeps more, and the 95 % interval of their paired
difference leaves zero out. Of the points that nothing beats the data cannot say which keeps the
most, so the cheapest of them wins. That one ties with the highest mean, or is it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from autoprune.deploy.pick.limits import Limit

Why = Literal["limit", "beaten", "tied"]


class Interval(Protocol):
    """A difference in retention with its 95 % interval."""

    @property
    def mean(self) -> float:
        """Of the difference."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


@dataclass(frozen=True)
class Entry:
    """A point as far as the choice needs to know it.

    Attributes:
        name: ``search:trial``.
        figures: retention, params, memory, latency, floors; see ``limits.Limit``.
    """

    name: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Lost:
    """Why a point was not chosen.

    Attributes:
        entry: the point.
        why: it misses a constraint; another one beats it; it ties with the winner and costs more.
        missed: constraints, and by how much as shares of their bounds.
        by: name of the point that beats it.
        difference: its retention minus that point's (or the winner's).
        dominated: whether what beats it costs no more.
    """

    entry: Entry
    why: Why
    missed: tuple[tuple[Limit, float], ...] = ()
    by: str = ""
    difference: Interval | None = None
    dominated: bool = False


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        winner: the point; None where nothing fits.
        runner_up: what would be chosen without it.
        gap: the runner-up's retention minus the winner's.
        runner_ties: what the runner-up ties with among the points that fit.
        ties: what the winner ties with among them.
        lost: all others, by retention.
        nearest: the point that misses the constraints by the least share, where nothing fits.
    """

    winner: Entry | None
    runner_up: Entry | None = None
    gap: Interval | None = None
    runner_ties: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()
    nearest: Entry | None = None


Differ = Callable[[str, str], Interval]
"""Retention of one point minus another's, by their names."""


def choose(entries: Sequence[Entry], limits: Sequence[Limit], cost: str, differ: Differ) -> Choice:
    """Choose a point.

    Args:
        entries: all points, at least one.
        limits: constraints.
        cost: figure that decides ties: the lower wins.
        differ: of two points.
    """
    missing = {
        entry.name: tuple((limit, by) for limit in limits if (by := limit.missed(entry.figures)))
        for entry in entries
    }
    fitting = [entry for entry in entries if not missing[entry.name]]
    if not fitting:
        nearest = min(entries, key=lambda entry: max(by for _, by in missing[entry.name]))
        lost = tuple(Lost(e, "limit", missed=missing[e.name]) for e in _by_retention(entries))
        return Choice(None, lost=lost, nearest=nearest)
    winner = _best(fitting, cost, differ)
    others = [entry for entry in fitting if entry is not winner]
    runner = _best(others, cost, differ) if others else None
    lost = tuple(
        Lost(entry, "limit", missed=missing[entry.name])
        if missing[entry.name]
        else _lost(entry, winner, fitting, cost, differ)
        for entry in _by_retention(entries)
        if entry is not winner
    )
    return Choice(
        winner=winner,
        runner_up=runner,
        gap=None if runner is None else differ(runner.name, winner.name),
        runner_ties=() if runner is None else _ties(runner, fitting, differ),
        ties=_ties(winner, fitting, differ),
        lost=lost,
    )


def _by_retention(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: -entry.figures["retention"])


def _best(entries: Sequence[Entry], cost: str, differ: Differ) -> Entry:
    """Return the cheapest of those that nothing beats."""
    free = [e for e in entries if not any(_beats(o, e, differ) for o in entries if o is not e)]
    return min(free, key=lambda entry: (entry.figures[cost], -entry.figures["retention"]))


def _beats(one: Entry, other: Entry, differ: Differ) -> bool:
    return differ(one.name, other.name).low > 0


def _ties(one: Entry, entries: Sequence[Entry], differ: Differ) -> tuple[str, ...]:
    found = []
    for other in entries:
        if other is not one:
            between = differ(one.name, other.name)
            if between.low <= 0 <= between.high:
                found.append(other.name)
    return tuple(found)


def _lost(entry: Entry, winner: Entry, fitting: Sequence[Entry], cost: str, differ: Differ) -> Lost:
    """Say why a point that fits was not chosen; the winner is named first where it beats it."""
    rivals = [winner, *(e for e in _by_retention(fitting) if e is not entry and e is not winner)]
    for rival in rivals:
        if _beats(rival, entry, differ):
            return Lost(
                entry,
                "beaten",
                by=rival.name,
                difference=differ(entry.name, rival.name),
                dominated=rival.figures[cost] <= entry.figures[cost],
            )
    return Lost(entry, "tied", by=winner.name, difference=differ(entry.name, winner.name))
