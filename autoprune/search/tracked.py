"""A search's way to MLflow: what is handed to the tracker, and when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from autoprune.errors import StoppedError
from autoprune.search.knobs.space import Space
from autoprune.search.listener import SearchListener
from autoprune.search.records.store import SearchStore
from autoprune.search.settings import SearchSettings
from autoprune.search.work import Prepared
from autoprune.tracking.records.summary import SearchInfo, SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.tracker import Tracker

PAUSE = 10.0
"""Seconds between two logs of one trial that goes on; its end is always logged."""

STOP_SECONDS = 5.0
"""How long a search that was interrupted waits for MLflow."""


Attach = Callable[[SearchStore, SearchSummary], Mapping[str, str]]
"""From a finished search to texts by the path that they lie at, beside its run in MLflow."""


class SearchLog:
    """Hands a search's news to the tracker, or to nobody."""

    def __init__(self, tracker: Tracker | None, warn: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._warn = warn
        self._last: dict[int, float] = {}

    def record(self, record: TrialRecord) -> None:
        """Log a trial's record; a short trial is logged once, at its end."""
        now = time.monotonic()
        if record.state == "running":
            if now - self._last.setdefault(record.trial, now) < PAUSE:
                return
            self._last[record.trial] = now
        if self._tracker is not None:
            self._tracker.log_trial(record)

    def summary(self, summary: SearchSummary) -> None:
        """Log the confirmed front."""
        if self._tracker is not None:
            self._tracker.log_summary(summary)

    def attach(self, make: Attach, store: SearchStore, summary: SearchSummary) -> None:
        """Log what is made of the result; the search has its result whatever becomes of that."""
        if self._tracker is None:
            return
        try:
            for path, text in make(store, summary).items():
                self._tracker.log_text(path, text)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._warn(f"nothing was put beside the search in MLflow ({reason})")


@contextmanager
def tracked(
    settings: SearchSettings,
    space: Space,
    store: SearchStore,
    prepared: Prepared,
    listener: SearchListener,
    enabled: bool = True,
) -> Iterator[SearchLog]:
    """Open the search's run in MLflow, and end it as the search ends."""
    if not enabled:
        yield SearchLog(None, listener.on_warning)
        return
    tracker = Tracker(
        _info(settings, space, store, prepared),
        home=settings.home,
        uri=settings.tracking_uri,
        directory=store.directory,
        warn=listener.on_warning,
    )
    records = list(store.records().values())
    if records:
        tracker.sync(records)
    try:
        yield SearchLog(tracker, listener.on_warning)
    except StoppedError as error:
        tracker.close("failed", str(error))
        raise
    except Exception as error:
        tracker.close("failed", (str(error).splitlines() or [type(error).__name__])[0])
        raise
    except BaseException:
        reason = f"interrupted; 'autoprune search --resume {store.typed}' goes on"
        tracker.close("stopped", reason, timeout=STOP_SECONDS)
        raise
    listener.on_stage("logging plots and tables")
    tracker.close()


def _info(
    settings: SearchSettings, space: Space, store: SearchStore, prepared: Prepared
) -> SearchInfo:
    values = settings.model_dump(mode="json", exclude={"name", "home", "tracking_uri", "storage"})
    flat = {k: ", ".join(v) if isinstance(v, list) else v for k, v in values.items()}
    return SearchInfo(
        name=store.name,
        key=store.key(),
        settings=flat,
        files={
            "settings.json": json.dumps(values, indent=2),
            "space.json": space.model_dump_json(indent=2),
        },
        versions=dict(prepared.versions),
        measured=dict(prepared.measured),
        dense=prepared.dense,
        budget=prepared.budget,
    )
