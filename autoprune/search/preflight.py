"""What is checked of a new search before anything is started or written; takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError
from autoprune.models.output import is_virtual
from autoprune.search.settings import SearchSettings
from autoprune.tracking.location import check_tracking, sqlite_path

if TYPE_CHECKING:
    from autoprune.data.lengths import Lengths
    from autoprune.data.splits import DataSpec
    from autoprune.evaluation.tasks import TaskSpec
    from autoprune.models.loading import Inspected


CHECKED_ROWS = 64
"""Rows of a user's data that are read in full before a search starts."""


def preflight(settings: SearchSettings, *, outline: bool = False) -> None:
    """Check that a search can begin; cheap checks come first, and none writes.

    Args:
        settings: of the search.
        outline: let a model pass of which only the configuration is there, to plan with.

    Raises:
        AutoPruneError: the first thing that is in the way, and its mend.
    """
    check_home(settings.home)
    check_cores(settings)
    if settings.tracking_uri is not None:
        check_tracking(settings.tracking_uri)
    check_problem(settings, outline=outline)
    if settings.warm_start:
        from autoprune.search.starts.warm import check_warm

        check_warm(settings)
    if settings.storage is not None:
        check_storage(settings.storage)


def check_storage(url: str) -> None:
    """Check that Optuna's storage answers, or that its sqlite file can be made; writes nothing.

    Raises:
        AutoPruneError: it does not, or cannot.
    """
    if not url.startswith("sqlite"):
        from autoprune.search.records.storage import open_storage

        open_storage(url, Path())
    elif (path := sqlite_path(url)) is not None:
        place = path.absolute().parent
        if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise AutoPruneError(
                f"--storage {url!r} cannot be made in {place}: name a file in a directory that is "
                "there and can be written"
            )


def check_cores(settings: SearchSettings) -> None:
    """Check that a trial asks for no more cores than there are: more threads only wait.

    Raises:
        AutoPruneError: it asks for more than this machine has, and joins no cluster.
    """
    cores = os.cpu_count() or 1
    if settings.ray_address is None and settings.cpus_per_trial > cores:
        raise AutoPruneError(
            f"--cpus-per-trial {settings.cpus_per_trial:g} is more than the {cores} cores of this "
            f"machine: give {cores} or less"
        )


def check_home(home: Path) -> None:
    """Check that a home directory is there and writable, or can be made.

    Raises:
        AutoPruneError: it lies below a file, or there is no permission.
    """
    place = Path(home).expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    mend = "name another directory with --home"
    if not place.is_dir():
        raise AutoPruneError(f"home {home} cannot be made: {place} is a file; {mend}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise AutoPruneError(f"home {home} cannot be written: no permission in {place}; {mend}")
    if is_virtual(place):
        raise AutoPruneError(f"home {home} cannot be made: {place} holds no files; {mend}")


def check_tasks(specs: Sequence[TaskSpec], sizes: Mapping[str, int | None]) -> None:
    """Check tasks that bring their own documents: keys, documents, splits, and how they score.

    Args:
        specs: tasks; those of a sample set pass.
        sizes: images that are asked about, by split.

    Raises:
        AutoPruneError: a task needs a key that is not set; see also ``pools.choose`` and
            ``external.tried``.
    """
    own = [spec for spec in specs if spec.family is None]
    if not own:
        return
    from autoprune.evaluation.external import tried
    from autoprune.evaluation.keys import check_key
    from autoprune.evaluation.pools import choose

    for spec in own:
        check_key(spec)
    done = [tried(spec) for spec in own]
    for split, size in sizes.items():
        choose(done, split, size)


def check_data(settings: SearchSettings, found: Inspected) -> None:
    """Check that a model reads a user's data: some rows are read as it would, with their images.

    Args:
        settings: of the search.
        found: its model.

    Raises:
        AutoPruneError: an image that does not decode, rows that the model cannot read, or none
            that is short enough.
    """
    if settings.data_spec is not None and "processor" not in found.lacks:
        data_lengths(settings.data_spec, found.directory)


@lru_cache(maxsize=4)
def data_lengths(data: DataSpec, directory: Path) -> Lengths:
    """Read rows of a user's data as a model does, once a process; see ``lengths.measure``."""
    from autoprune.data.lengths import longest_of, measure
    from autoprune.data.sources.user import open_data
    from autoprune.models.families import wrapper_of
    from autoprune.models.loading import load_processor
    from autoprune.pipeline.prepare import inspect

    config = inspect(str(directory), outline=True).config
    processor = load_processor(directory, wrapper_of(config).projector is not None)
    longest = longest_of(config, data)
    return measure(open_data(data), config, processor, longest, rows=CHECKED_ROWS)


FEW_ROWS = 100
"""Held-out rows to confirm on, below which a search says how few they are."""


def data_notes(settings: SearchSettings, found: Inspected) -> list[str]:
    """Return what is to be known of a user's data before it is used: rows too long, or too few."""
    from autoprune.evaluation.held_out import asks_of_data
    from autoprune.search.exams import tasks_of
    from autoprune.zoo.splits import splits_of

    data = settings.data_spec
    if data is None:
        return []
    notes = []
    if "processor" not in found.lacks and (line := data_lengths(data, found.directory).line):
        notes.append(f"too long: {line}")
    splits = splits_of(data)
    if asks_of_data(tasks_of(settings)) and splits.size("confirm") < FEW_ROWS:
        notes.append(
            f"few questions: {splits.size('search'):,} held-out rows are asked in trials, "
            f"{splits.size('confirm'):,} to confirm, so that intervals say little; give more rows, "
            "or name --tasks"
        )
    return notes


def check_problem(settings: SearchSettings, *, outline: bool = False) -> None:
    """Check model, sizes, tasks and devices against each other; ``outline`` as for ``preflight``.

    Raises:
        AutoPruneError: see ``inspect``, ``read_sizes``, ``tasks_of`` and ``check_tasks``; GPUs that
            are asked for and are not there.
    """
    from autoprune.models.precision import PRECISIONS
    from autoprune.models.quantise import require_library
    from autoprune.pipeline.prepare import inspect, working_precision
    from autoprune.search.candidates.sizes import read_sizes
    from autoprune.search.exams import tasks_of
    from autoprune.search.workers.session import resources_of

    specs = tasks_of(settings)
    if any(PRECISIONS[name].storage for name in settings.precisions):
        require_library()
    found = inspect(settings.model, outline=outline)
    read_sizes(settings, found.spec, working_precision(found), found.config)
    if settings.floors:
        from autoprune.evaluation.floors import read_floors

        read_floors(settings.floors, specs)
    sizes = {"search": settings.search_samples, "confirm": settings.confirm_samples}
    check_tasks(specs, sizes)
    check_data(settings, found)
    if settings.ray_address is None:
        resources_of(settings).device()
