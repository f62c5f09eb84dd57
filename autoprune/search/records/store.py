"""The directory of a search: everything that a killed driver leaves, and a new one needs.

::

    HOME/searches/NAME/
        settings.json    what was asked (SearchSettings), written once
        space.json       the knob space as it was read
        study.journal    Optuna's journal, unless --storage names another place
        trials/0007.json one TrialRecord a trial, rewritten at each rung
        trials/0007.error.txt   the traceback of a failed trial
        rungs/0007/      checkpoint of an unfinished trial, removed when it ends
        seconds          time that earlier sessions spent
        facts.json       model, tasks and sizes, for searches that learn from this one
        warm.json        what was taken over from earlier searches, if any
        key              tells this search from every other one, anywhere
        front.json       the SearchSummary, there once the search has finished
        lock             the driver that is at work

Every file appears by a rename, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from autoprune.errors import AutoPruneError, StoppedError, did_you_mean
from autoprune.search.knobs.space import Space, load_space
from autoprune.search.records.lock import Lock
from autoprune.search.settings import (
    FREE,
    LATER,
    SearchSettings,
    default_of,
    flag,
    make_settings,
)
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord

STATES = ("new", "running", "interrupted", "finished")


AGAIN = "bring it back from a copy, or remove its directory and search again"
RESUME = "remove it, then 'autoprune search --resume {typed}' makes it again"
"""What to do about a damaged file of a search's directory."""


class SearchStore:
    """Reads and writes one search's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.directory.name

    @property
    def typed(self) -> str:
        """What a user types to name it in a command: with ``--home``, where it lies elsewhere."""
        home = self.directory.parent.parent.absolute()
        usual = os.environ.get("AUTOPRUNE_HOME") or default_of("home")
        if home == Path(usual).absolute():
            return self.name
        return f"{self.name} --home {shlex.quote(str(home))}"

    @property
    def journal(self) -> Path:
        """File of Optuna's journal."""
        return self.directory / "study.journal"

    def exists(self) -> bool:
        """Say whether a search was ever started here."""
        return (self.directory / "settings.json").is_file()

    def open(self, settings: SearchSettings) -> None:
        """Create the directory, or check that it holds a search of the same settings.

        Raises:
            AutoPruneError: the directory cannot be written, or holds a search with other
                settings (names the first that differs, and how to resume or rename).
        """
        if self.exists():
            self.check_same(settings)
        missing = [p for p in (self.directory, *self.directory.parents) if not p.exists()]
        try:
            (self.directory / "trials").mkdir(parents=True, exist_ok=True)
            (self.directory / "rungs").mkdir(exist_ok=True)
            self._write("settings.json", settings.model_dump_json(indent=2))
            if not (self.directory / "space.json").is_file():
                space = load_space(settings.space)
                self._write("space.json", space.model_dump_json(indent=2))
        except OSError as error:
            if missing:
                shutil.rmtree(self.directory, ignore_errors=True)
            for place in missing[1:]:
                with suppress(OSError):  # somebody else's by now
                    place.rmdir()
            raise AutoPruneError(
                f"cannot write to {self.directory} ({error.strerror}): "
                "choose another directory by --home"
            ) from None

    def check_same(self, settings: SearchSettings) -> None:
        """Check that ``settings`` are those that the search here was started with.

        Raises:
            AutoPruneError: names the first that differs, and how to resume or rename.
        """
        fields = [field for field in SearchSettings.model_fields if field in LATER]
        later = {field: default_of(field) for field in fields}
        now = settings.fixed()
        now |= {field: value for field, value in later.items() if field not in now}
        before = {name: value for name, value in self._typed().items() if name not in FREE}
        before = {**later, **before}
        # Read as a space, so that one of an earlier version has the later fields at their default.
        before["space"] = self.space().model_dump(mode="json")
        for field, value in now.items():
            if before.get(field) == value:
                continue
            raise AutoPruneError(
                f"search {self.name!r} exists with another {flag(field)} "
                f"({_shown(before.get(field))}, not {_shown(value)}): "
                f"'autoprune search --resume {self.typed}' goes on with it, "
                "another --name starts afresh"
            )

    def settings(self, changes: Mapping[str, Any] | None = None) -> SearchSettings:
        """Return the settings that the search was started with, with ``changes`` to free ones.

        The space is the one that the search began with, even if its file has changed or gone.

        Raises:
            AutoPruneError: they were written by another version, or a change is not free.
        """
        values = self._typed()
        for field, value in (changes or {}).items():
            plain = list(value) if isinstance(value, tuple) else value
            old = values.get(field, default_of(field) if field in LATER else None)
            if field not in FREE and old != plain:
                raise AutoPruneError(
                    f"{flag(field)} cannot change when a search is resumed: "
                    "leave it out, or start another --name"
                )
            values[field] = value
        if not self._has_space(values.get("space", "")):
            values["space"] = str(self.directory / "space.json")
        return make_settings(values)

    def _has_space(self, name_or_path: str) -> bool:
        """Say whether a space is still the one that the search began with."""
        try:
            return load_space(name_or_path) == self.space()
        except AutoPruneError:
            return False

    def space(self) -> Space:
        """Return the knob space as it was when the search began."""
        with self._reading("space.json", AGAIN) as text:
            return Space.model_validate_json(text)

    def records(self) -> dict[int, TrialRecord]:
        """Return every trial's record, by number."""
        found = {}
        for path in sorted((self.directory / "trials").glob("[0-9]*.json")):
            with self._reading(f"trials/{path.name}", RESUME) as text:
                record = TrialRecord.from_json(text)
            found[record.trial] = record
        return found

    def write_record(self, record: TrialRecord) -> None:
        """Write a trial's record in place of its last one."""
        self._write(f"trials/{record.trial:04d}.json", record.to_json(indent=1))

    def write_error(self, trial: int, text: str) -> None:
        """Write the traceback of a failed trial."""
        self._write(f"trials/{trial:04d}.error.txt", text)

    def forget(self, trial: int) -> None:
        """Remove what is known of a trial, so that it runs anew."""
        for path in (self.directory / "trials").glob(f"{trial:04d}.*"):
            path.unlink()
        self.drop_rung(trial)

    def rung_dir(self, trial: int) -> Path:
        """Return where an unfinished trial keeps its checkpoint."""
        return self.directory / "rungs" / f"{trial:04d}"

    def drop_rung(self, trial: int) -> None:
        """Remove the checkpoint of a trial that has ended, and what a kill left half written."""
        for directory in (self.rung_dir(trial), part_of(self.rung_dir(trial))):
            shutil.rmtree(directory, ignore_errors=True)

    def key(self) -> str:
        """Return what tells this search from every other one; the same on resume."""
        path = self.directory / "key"
        if not path.is_file():
            write_atomically(path, uuid4().hex)
        return path.read_text()

    def seconds(self) -> float:
        """Return the time that earlier sessions have spent."""
        try:
            return float((self.directory / "seconds").read_text())
        except (OSError, ValueError):
            return 0.0

    def write_seconds(self, seconds: float) -> None:
        """Write the time spent in all."""
        self._write("seconds", f"{seconds:.1f}\n")

    def summary(self) -> SearchSummary | None:
        """Return the confirmed result, or None before the search has finished."""
        if not (self.directory / "front.json").is_file():
            return None
        with self._reading("front.json", RESUME) as text:
            return SearchSummary.from_json(text)

    def confirmed(self) -> SearchSummary:
        """Return the result of a finished search.

        Raises:
            StoppedError: the search has none yet; says how to get one.
        """
        summary = self.summary()
        if summary is not None:
            return summary
        ended = sum(record.state != "running" for record in self.records().values())
        so_far = (
            f"search {self.name!r} has no confirmed front yet "
            f"({ended} of {self.settings().trials} trials have ended)"
        )
        if self.state() == "running":
            raise StoppedError(f"{so_far}: it is still running, wait for it")
        raise StoppedError(f"{so_far}: 'autoprune search --resume {self.typed}' goes on with it")

    def write_summary(self, summary: SearchSummary) -> None:
        """Write the confirmed result."""
        self._write("front.json", summary.to_json(indent=2))

    def facts(self) -> dict[str, Any] | None:
        """Return what a later search must share to learn from this one, where it is known."""
        if not (self.directory / "facts.json").is_file():
            return None
        with self._reading("facts.json", AGAIN) as text:
            return dict(json.loads(text))

    def write(self, name: str, text: str) -> None:
        """Write a file of the directory, whole or not at all."""
        self._write(name, text)

    def reopen(self) -> None:
        """Take the result back: the search goes on."""
        (self.directory / "front.json").unlink(missing_ok=True)

    def lock(self) -> Lock:
        """Return the lock that keeps two drivers apart."""
        return Lock(self.directory / "lock", f"search {self.name!r}")

    def state(self) -> str:
        """Return one of ``STATES``."""
        if not self.exists():
            return "new"
        if self.summary() is not None:
            return "finished"
        return "running" if self.lock().holder() is not None else "interrupted"

    def _typed(self) -> dict[str, Any]:
        with self._reading("settings.json", AGAIN) as text:
            return dict(json.loads(text))

    @contextmanager
    def _reading(self, name: str, mend: str) -> Iterator[str]:
        """Read a file of the directory; whatever is wrong with it is said with its path.

        Raises:
            AutoPruneError: it cannot be read, or what is made of it is refused.
        """
        path = self.directory / name
        try:
            yield path.read_text()
        except (AutoPruneError, OSError, ValueError, TypeError) as error:
            line = str(error).splitlines()[0]
            raise AutoPruneError(
                f"{path} was damaged, or is another version's ({line}): "
                + mend.format(typed=self.typed)
            ) from None

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.directory / name, text)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('name', '…')} with other content" if "knobs" in value else "…"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either what it held or all of ``text``."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def part_of(checkpoint: Path) -> Path:
    """Return where a checkpoint is written, to be renamed once it is whole."""
    return checkpoint.with_name(f"{checkpoint.name}.part")


def search_dir(home: Path, name: str) -> Path:
    """Return the directory of the search ``name``."""
    return Path(home).absolute() / "searches" / name


def find_searches(home: Path) -> list[SearchStore]:
    """Return every search under ``home``, by name."""
    root = Path(home).absolute() / "searches"
    directories: Iterable[Path] = sorted(root.iterdir()) if root.is_dir() else ()
    return [s for s in map(SearchStore, directories) if s.exists()]


def find_search(home: Path, name: str) -> SearchStore:
    """Return the search ``name``.

    Raises:
        AutoPruneError: there is none (says the nearest name).
    """
    store = SearchStore(search_dir(home, name))
    if store.exists():
        return store
    known = [s.name for s in find_searches(home)]
    hint = did_you_mean(name, known) if known else ": none was ever started here"
    raise AutoPruneError(f"no search {name!r} in {Path(home).absolute()}{hint}")
