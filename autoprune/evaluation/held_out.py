"""Questions about held-out rows of a user's data as tasks: one a source, by exact match."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from autoprune.data.samples import SampleSet
from autoprune.data.sources.scan import SHORT, Source
from autoprune.data.sources.user import UserSet, UserSplits
from autoprune.errors import AutoPruneError
from autoprune.evaluation.pools import pool_of
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


def unseen(
    samples: SampleSet,
    specs: Iterable[TaskSpec],
    on_stage: Callable[[str], None] = lambda text: None,
) -> SampleSet:
    """Return samples of a user's data without those that show images of the tasks' own documents.

    An image that a model was recovered on says little of others. Images are told apart by their
    encoded bytes: one that was encoded anew counts as another.

    Args:
        samples: to train on, or to measure importance on; others are returned as they are.
        specs: the tasks.
        on_stage: told how many samples are left out.

    Raises:
        AutoPruneError: no sample is left; or the documents cannot be had.
    """
    if not isinstance(samples, UserSet):
        return samples
    asked: set[int] = set()
    for spec in specs:
        if spec.family is None:
            asked |= pool_of(spec).numbers
    found = samples.without(asked)
    if left := len(samples) - len(found):
        on_stage(
            f"{left:,} of {len(samples):,} samples of {samples.name} show images that the tasks "
            "ask about, and are left out"
        )
    return found


def _task(source: Source) -> TaskSpec:
    return TaskSpec(PREFIX + source.name, chance=source.index.commonest, family=source.name)
