"""What is checked of a new search before anything is started or written; takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.errors import AutoPruneError
from autoprune.search.settings import SearchSettings
from autoprune.tracking.location import check_tracking, sqlite_path


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
    if _is_virtual(place):
        raise AutoPruneError(f"home {home} cannot be made: {place} holds no files; {mend}")


def _is_virtual(place: Path) -> bool:
    """Whether a directory is the kernel's own: permissions let root write there, nothing can."""
    return any(place.is_relative_to(root) for root in ("/proc", "/sys"))


def check_problem(settings: SearchSettings, *, outline: bool = False) -> None:
    """Check model, sizes, tasks and devices against each other; ``outline`` as for ``preflight``.

    Raises:
        AutoPruneError: see ``inspect``, ``read_sizes`` and ``resolve_tasks``; a task that is not
            made from the embedded data; GPUs that are asked for and are not there.
    """
    from autoprune.evaluation.tasks import resolve_tasks
    from autoprune.models.precision import PRECISIONS
    from autoprune.models.quantise import require_library
    from autoprune.pipeline.prepare import inspect, working_precision
    from autoprune.search.candidates.sizes import read_sizes
    from autoprune.search.workers.session import resources_of

    specs = resolve_tasks(settings.tasks or None)
    if any(PRECISIONS[name].storage for name in settings.precisions):
        require_library()
    found = inspect(settings.model, outline=outline)
    read_sizes(settings, found.spec, working_precision(found))
    for spec in specs:
        if spec.family is None:
            own = ", ".join(s.name for s in resolve_tasks())
            raise AutoPruneError(
                f"task {spec.name!r} brings its own data, which a search cannot split: "
                f"choose from {own}"
            )
    if settings.ray_address is None:
        resources_of(settings).device()
