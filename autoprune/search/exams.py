"""What a search is scored on: the tasks that its settings name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoprune.data.splits import DataSpec
from autoprune.evaluation.tasks import TaskSpec, resolve_tasks, with_said
from autoprune.search.settings import SearchSettings


def tasks_of(settings: SearchSettings) -> tuple[TaskSpec, ...]:
    """Return the tasks that a search is scored on, see :func:`named_tasks`."""
    return named_tasks(
        settings.tasks, settings.data_spec, settings.task_data, settings.capabilities
    )


def named_tasks(
    names: Sequence[str],
    data: DataSpec | None = None,
    task_data: Sequence[str] = (),
    capabilities: Sequence[str] = (),
) -> tuple[TaskSpec, ...]:
    """Return the tasks that are asked, by their files alone.

    Args:
        names: of tasks; where there are none, held-out rows of ``data`` are asked.
        data: of the user's; None and no names means the tasks of the embedded data.
        task_data, capabilities: see ``resolve_tasks``.

    Raises:
        AutoPruneError: see ``resolve_tasks`` and ``data_tasks``.
    """
    if data is not None and not names:
        from autoprune.data.sources.user import open_data
        from autoprune.evaluation.held_out import data_tasks

        return with_said(data_tasks(open_data(data)), task_data, capabilities)
    return resolve_tasks(names or None, data=task_data, capabilities=capabilities)


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
