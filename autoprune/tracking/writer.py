"""The process that writes a search to MLflow, so that the search never waits for it.

Importing MLflow takes about four seconds and 170 MB, a new database two and a half, and a
server may hang or go away: none of it may hold up trials. The driver (`Tracker`) sends one JSON
object a line on stdin; this process answers on stdout with warnings and with what it did. It
holds the latest record of every trial until it is logged, tries again while the server is away,
and when stdin ends without a word (the driver was killed) it ends the runs that stand open.

Run as ``python -m autoprune.tracking.writer``.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from autoprune.tracking.naming import trial_metrics
from autoprune.tracking.records.summary import SearchInfo, SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.store import MlflowStore
from autoprune.tracking.views import differing_knobs, front_view, share_key, trials_view

RETRY_SECONDS = 10.0
KNOB_COLUMNS = 2  # of the list of trials
# What MLflow says of a record that it will never take, however often it is tried.
FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"}
KILLED = "the search was killed; resume it to go on"


class Writer:
    """Holds what is to be logged, and logs it when MLflow can take it."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.send = send
        self.store: MlflowStore | None = None
        self.settings: dict[str, Any] = {}
        self.records: dict[int, TrialRecord] = {}
        self.pending: dict[int, TrialRecord] = {}
        self.summary: SearchSummary | None = None
        self.summary_pending = False
        self.texts: dict[str, str] = {}  # artifacts to come, by path
        self.settle_reason = ""
        self.closing: tuple[str, str] | None = None
        self._opened = False
        self._names: set[str] = set()  # metrics that the trials have by now
        self._compared = False  # whether there is a view of the front
        self._viewed: set[str] = set()  # of those, what the saved view shows
        self._started = time.time()
        self._retry_at = 0.0
        self._warned: set[str] = set()
        self._seconds: list[float] = []

    def take(self, message: dict[str, Any]) -> None:
        """Note what one line from the driver asks for."""
        match message.pop("do"):
            case "open":
                self.settings = message
            case "trial":
                self._take_records([message["record"]])
            case "sync":
                self._take_records(message["records"])
                self.settle_reason = message["reason"]
            case "summary":
                self.summary = SearchSummary.model_validate(message["summary"])
                self.summary_pending = True
            case "text":
                self.texts[message["path"]] = message["text"]
            case "close":
                self.closing = (message["state"], message["reason"])
                self._retry_at = 0.0

    def _take_records(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            record = TrialRecord.model_validate(item)
            self.records[record.trial] = self.pending[record.trial] = record
            self._names |= set(trial_metrics(record))

    @property
    def idle(self) -> bool:
        """Whether everything that came has been logged."""
        waits = self.pending or self.summary_pending or self.texts
        return self._opened and not waits

    def work(self) -> None:
        """Log what is pending; on an outage, wait before the next attempt."""
        if time.monotonic() < self._retry_at or not self.settings:
            return
        try:
            self._work()
        except Exception as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._warn("away", f"MLflow takes no runs for now ({_first_line(error)})")
            if os.environ.get("AUTOPRUNE_DEBUG"):
                traceback.print_exc()

    def _work(self) -> None:
        store = self._open_store()
        for trial, record in list(self.pending.items()):
            started = time.perf_counter()
            try:
                store.log_trial(record)
            except Exception as error:
                if getattr(error, "error_code", None) not in FINAL_ERRORS:
                    raise
                self._warn("refused", f"MLflow refuses {record.name} ({_first_line(error)})")
            else:
                self._seconds.append(time.perf_counter() - started)
            if self.pending.get(trial) is record:
                del self.pending[trial]
        if self.settle_reason:
            alive = {t for t, record in self.records.items() if record.state == "running"}
            store.settle(alive, self.settle_reason)
            self.settle_reason = ""
        self._save_view(store)
        if self.summary_pending and self.summary is not None:
            self._log_summary(store, self.summary)
            self.summary_pending = False
        for path, text in list(self.texts.items()):
            self._log_text(store, path, text)
            del self.texts[path]
        if self.closing is not None:
            self._close(store, *self.closing)

    def _open_store(self) -> MlflowStore:
        if self.store is None:
            self.store = MlflowStore(
                self.settings["uri"],
                SearchInfo.model_validate(self.settings["info"]),
                artifacts=self.settings["artifacts"],
                experiment=self.settings["experiment"],
                writer=uuid.uuid4().hex,
            )
        if not self._opened:
            self.store.open()
            self._opened = True
            self._tell_place()
        return self.store

    def _save_view(self, store: MlflowStore) -> None:
        """Keep the saved view up with the metrics that the trials have by now."""
        names = self._names | ({"retention_confirmed"} if self.summary is not None else set())
        knobs = differing_knobs(self.records.values())[:KNOB_COLUMNS]
        if self._names and names | set(knobs) != self._viewed:
            view = trials_view(
                store.parent, store.info, sorted(names), sorted(knobs), created=self._started
            )
            store.set_view(share_key(store.info), view)
            self._viewed = names | set(knobs)

    def _log_summary(self, store: MlflowStore, summary: SearchSummary) -> None:
        from autoprune.tracking.report import write_files

        records = [self.records[trial] for trial in sorted(self.records)]
        store.log_points(summary)
        store.log_summary(summary, records)
        if summary.front:
            view = front_view(store.parent, store.info, summary, records, created=self._started)
            store.set_view(share_key(store.info, "front"), view)
            self._compared = True
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            write_files(Path(folder), summary, records)
            try:
                store.log_files(Path(folder))
            except Exception as error:  # an artifact store of its own may be away alone
                text = f"plots and tables were not stored in MLflow ({_first_line(error)})"
                self._warn("files", text)

    def _log_text(self, store: MlflowStore, path: str, text: str) -> None:
        try:
            store.log_text(path, text)
        except Exception as error:  # an artifact store of its own may be away alone
            self._warn("files", f"{path} was not stored in MLflow ({_first_line(error)})")

    def _close(self, store: MlflowStore, state: str, reason: str) -> None:
        store.settle(set(), reason or "the search ended before this trial did")
        store.close(state, reason)
        self.closing = None
        self._tell_place()

    def abandon(self) -> None:
        """The driver is gone: end what stands open, unless a later driver has taken over."""
        store = self.store
        if store is None or not self._opened:
            return
        with contextlib.suppress(Exception):  # a resume settles what is left
            if store.is_mine():
                store.settle(set(), KILLED)
                store.close("stopped", KILLED)

    def _tell_place(self) -> None:
        assert self.store is not None
        names = ("trials", "front") if self._compared else ("trials",)
        place = self.store.place({name: share_key(self.store.info, name) for name in names})
        self.send({"place": place.model_dump(mode="json")})

    def report(self) -> dict[str, Any]:
        """Return what the driver is told at the end."""
        return {
            "unlogged": len(self.pending) + int(self.summary_pending),
            "closed": self.closing is None,
            "logged": len(self._seconds),
            "seconds_a_trial": sum(self._seconds) / max(1, len(self._seconds)),
        }

    def _warn(self, kind: str, text: str) -> None:
        """Warn once of each kind; MLflow's troubles are not the search's."""
        if kind not in self._warned:
            self.send({"warning": text})
            self._warned.add(kind)


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # MLflow puts the whole chain of causes into one line; the address is all that helps.
    request, failed, _ = text.partition(" failed with exception ")
    return f"no answer: {request}" if failed else text[:200]


def serve(stdin: TextIO, stdout: TextIO) -> None:
    """Read lines until the end of stdin; log between them."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        # A thread of its own keeps the pipe empty, so that the driver never waits on it.
        for line in stdin:
            lines.put(line)
        lines.put(None)

    def send(message: dict[str, Any]) -> None:
        try:
            stdout.write(json.dumps(message) + "\n")
            stdout.flush()
        except OSError:
            pass  # the driver is gone; the end of stdin says so, too

    threading.Thread(target=read, daemon=True, name="stdin").start()
    writer = Writer(send)
    ended = asked_to_close = False
    while not ended:
        try:
            line = lines.get(timeout=None if writer.idle else 0.5)
        except queue.Empty:
            writer.work()
            continue
        while True:
            if line is None:
                ended = True
            else:
                message = json.loads(line)
                asked_to_close |= message["do"] == "close"
                writer.take(message)
            try:
                line = lines.get_nowait()
            except queue.Empty:
                break
        writer.work()
        if asked_to_close:
            break
    if not asked_to_close:
        writer.abandon()
    send({"end": writer.report()})


def main() -> None:
    """Serve the driver that started this process."""
    # Ctrl-C is the driver's to handle; it then says how the search ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    serve(sys.stdin, out)
    out.flush()
    os._exit(0)  # no library's thread holds the end up


if __name__ == "__main__":
    main()
