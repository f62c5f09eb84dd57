"""Capabilities as groups of tasks, and floors: what of the dense model's ability has to stay.

A floor is a share of the dense model's chance-corrected score on a task, or on all tasks of a
capability together: sum(s - chance) / sum(dense - chance), as retention is over all tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.evaluation.capabilities import parse_pairs
from autoprune.evaluation.retention import kept_tasks
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.tasks import TaskSpec

ROUNDING = 1e-9
"""Shares are quotients of differences: 0.36 of 0.4 comes out below nine tenths."""


@dataclass(frozen=True)
class Floor:
    """What has to stay.

    Attributes:
        name: of a task or a capability.
        tasks: that it is about.
        least: share of the dense model's ability, 1.0 is all of it.
    """

    name: str
    tasks: tuple[str, ...]
    least: float


def groups_of(specs: Iterable[TaskSpec]) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each capability, in the order in which they first come."""
    found: dict[str, tuple[str, ...]] = {}
    for spec in specs:
        for group in spec.capabilities:
            found[group] = (*found.get(group, ()), spec.name)
    return found


def read_floors(items: Iterable[str], specs: Sequence[TaskSpec]) -> tuple[Floor, ...]:
    """Return the floors that ``NAME=SHARE`` say; a task comes before a capability of its name.

    Raises:
        AutoPruneError: a name is neither a task of the search nor a capability of one; a share is
            no number in (0, 1].
    """
    tasks = {spec.name: (spec.name,) for spec in specs}
    known = {**groups_of(specs), **tasks}
    floors: dict[str, Floor] = {}
    for name, text in parse_pairs(items, "--floor", "pope=0.9"):
        if name not in known:
            raise AutoPruneError(
                f"--floor {name}={text}: no such task or capability in this search"
                f"{did_you_mean(name, known)}"
            )
        if name in floors:
            raise AutoPruneError(f"--floor {name} is given twice: give it once")
        floors[name] = Floor(name, known[name], floor_share(name, text))
    return tuple(floors.values())


def floors_of(
    least: Mapping[str, float], groups: Mapping[str, Sequence[str]], dense: TaskScores
) -> tuple[Floor, ...]:
    """Return floors again from what a search has written down of them.

    Args:
        least: share by the name of a task or a capability; a task comes before.
        groups: tasks by capability.
        dense: of the search, which knows its tasks.
    """
    return tuple(
        Floor(name, (name,) if name in dense.by_task else tuple(groups[name]), share)
        for name, share in least.items()
    )


def floor_share(name: str, text: str) -> float:
    """Return the share that a floor says, as ``0.9`` or ``90%``.

    Raises:
        AutoPruneError: it is no number in (0, 1].
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise AutoPruneError(
            f"--floor {name}={text} is no share in (0, 1]: write 0.9 for nine tenths of the dense "
            "model's ability"
        )
    return share


def kept_of(tasks: Sequence[str], candidate: TaskScores, dense: TaskScores) -> float | None:
    """Return what a candidate keeps of the dense model's ability on some tasks together.

    None where the dense model is at chance on all of them.

    Args:
        tasks: names.
        candidate, dense: on the same documents.
    """
    counted, _ = kept_tasks(dense)
    own = [name for name in tasks if name in counted]
    above = sum(dense[name].score - dense[name].chance for name in own)
    gained = sum(candidate[name].score - dense[name].chance for name in own)
    return gained / above if own else None


def check_floors(floors: Iterable[Floor], dense: TaskScores) -> None:
    """Refuse a floor that no model can be measured by.

    Raises:
        AutoPruneError: the dense model is at chance on its tasks.
    """
    for floor in floors:
        if kept_of(floor.tasks, dense, dense) is None:
            raise AutoPruneError(
                f"--floor {floor.name}={floor.least:g}: the dense model is at chance on "
                f"{', '.join(floor.tasks)}, so that nothing is left to keep: leave it out"
            )


def missed(floors: Iterable[Floor], candidate: TaskScores, dense: TaskScores) -> dict[str, float]:
    """Return by how much a candidate is below each floor that it does not meet."""
    return missed_by_mean(floors, [candidate], dense)


def missed_by_mean(
    floors: Iterable[Floor], runs: Sequence[TaskScores], dense: TaskScores
) -> dict[str, float]:
    """Return by how much the mean over runs is below each floor that it does not meet."""
    found = {}
    for floor in floors:
        kept = [kept_of(floor.tasks, run, dense) for run in runs]
        known = [value for value in kept if value is not None]
        short = floor.least - sum(known) / len(known) if known else 0.0
        if short > ROUNDING:
            found[floor.name] = short
    return found


def capability_scores(
    groups: Mapping[str, Sequence[str]], runs: Sequence[TaskScores], dense: TaskScores
) -> dict[str, float]:
    """Return what is kept of each capability, the mean over runs; those at chance are left out."""
    found = {}
    for group, tasks in groups.items():
        kept = [kept_of(tasks, run, dense) for run in runs]
        known = [value for value in kept if value is not None]
        if known:
            found[group] = sum(known) / len(known)
    return found
