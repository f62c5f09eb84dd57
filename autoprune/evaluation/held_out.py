"""Questions about held-out rows of a user's data as tasks: one a source, by exact match."""

from __future__ import annotations

from collections.abc import Iterable

from autoprune.data.sources.scan import SHORT, Source
from autoprune.data.sources.user import UserSplits
from autoprune.errors import AutoPruneError
from autoprune.evaluation.tasks import TaskSpec

PREFIX = "data_"
"""What the names of such tasks begin with; the source's name follows."""

MOSTLY = 0.9
"""Share of a source's answers that must be short, so that comparing them word by word says
something."""


def data_tasks(splits: UserSplits) -> tuple[TaskSpec, ...]:
    """Return a task for each source whose answers are short.

    Each held-out row is asked its first question. Guessing is to give the commonest answer.

    Raises:
        AutoPruneError: no source has short answers.
    """
    found = [_task(source) for source in splits.sources if source.index.short.mean() >= MOSTLY]
    if not found:
        raise AutoPruneError(
            f"most answers of {splits.name} have more than {SHORT} words, which cannot be compared "
            "word by word: name --tasks to score on"
        )
    return tuple(found)


def asks_of_data(specs: Iterable[TaskSpec]) -> bool:
    """Whether tasks ask about a user's own data."""
    return any(spec.family is not None and spec.name == PREFIX + spec.family for spec in specs)


def _task(source: Source) -> TaskSpec:
    return TaskSpec(PREFIX + source.name, chance=source.index.commonest, family=source.name)
