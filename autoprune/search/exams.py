"""What a search is scored on: the tasks that its settings name."""

from __future__ import annotations

from autoprune.evaluation.tasks import TaskSpec, resolve_tasks
from autoprune.search.settings import SearchSettings


def tasks_of(settings: SearchSettings) -> tuple[TaskSpec, ...]:
    """Return the tasks that a search is scored on, by their files alone.

    Raises:
        AutoPruneError: see ``resolve_tasks``.
    """
    return resolve_tasks(
        settings.tasks or None, data=settings.task_data, capabilities=settings.capabilities
    )
