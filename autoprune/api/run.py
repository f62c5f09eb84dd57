"""Search from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from autoprune.api.options import SearchOptions, fields, settings_of
from autoprune.errors import AutoPruneError
from autoprune.search.listener import SearchListener
from autoprune.search.settings import SearchSettings
from autoprune.tracking.records.summary import SearchSummary


def search(
    *,
    resume: str | None = None,
    listener: SearchListener | None = None,
    **options: Unpack[SearchOptions],
) -> SearchSummary:
    """Search for the smaller models that keep the most of a model's ability.

    What ``autoprune search`` does: a search of the same name and options that has finished answers
    at once, and one that was stopped goes on.

    Args:
        resume: go on with this search, with the options it was started with; of others, those that
            may change then.
        listener: told of progress; by default nobody is.
        options: of the search, see :class:`SearchOptions`.

    Returns:
        The confirmed front, with what it was measured against. ``autoprune.export`` takes one of
        its points as ``f"{summary.name}:{point.trial}"``.

    Raises:
        AutoPruneError: for bad input; nothing has been started then.
        StoppedError: for a search that a signal stopped, or whose trials all failed.
    """
    from autoprune.search.driver import run_search

    settings = settings_of(options) if resume is None else _resumed(resume, dict(options))
    return run_search(settings, listener)


def _resumed(name: str, options: dict[str, Any]) -> SearchSettings:
    from autoprune.search.records.store import find_search

    if options.get("name", name) != name:
        raise AutoPruneError(f"resume {name!r} and name {options['name']!r} name two searches")
    home = Path(options.get("home", SearchSettings.model_fields["home"].default))
    known = fields()
    values = settings_of({**options, "home": home})
    changed = {known[option]: getattr(values, known[option]) for option in options}
    return find_search(home, name).settings({**changed, "home": home})
