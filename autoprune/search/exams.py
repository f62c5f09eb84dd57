"""What a search is scored on: the tasks that its settings name."""

from __future__ import annotations

from collections.abc import Iterable

from autoprune.evaluation.tasks import TaskSpec, resolve_tasks, with_said
from autoprune.search.settings import SearchSettings


def tasks_of(settings: SearchSettings) -> tuple[TaskSpec, ...]:
    """Return the tasks that a search is scored on, by their files alone.

    A search on a user's data that names no tasks asks about held-out rows of it.

    Raises:
        AutoPruneError: see ``resolve_tasks`` and ``data_tasks``.
    """
    data = settings.data_spec
    if data is not None and not settings.tasks:
        from autoprune.data.sources.user import open_data
        from autoprune.evaluation.held_out import data_tasks

        return with_said(data_tasks(open_data(data)), settings.task_data, settings.capabilities)
    return resolve_tasks(
        settings.tasks or None, data=settings.task_data, capabilities=settings.capabilities
    )


def metric_notes(specs: Iterable[TaskSpec]) -> list[str]:
    """Return a line for each task whose metric nobody named: which one its score is read from."""
    return [
        f"metric of {spec.name}: {spec.metric}, the first that its file lists; "
        f"--tasks {spec.source or spec.name}:METRIC names another"
        for spec in specs
        if spec.guessed
    ]


def task_facts(specs: Iterable[TaskSpec]) -> list[str]:
    """Return what two searches must share of their tasks, as plain words."""
    return sorted(
        spec.name if spec.family is not None else f"{spec.name}:{spec.metric} ({spec.identity})"
        for spec in specs
    )
