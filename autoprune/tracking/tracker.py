"""The driver's side of MLflow: hand over what happened, and go on at once."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autoprune.errors import AutoPruneError
from autoprune.tracking.location import artifact_root, default_uri, is_server
from autoprune.tracking.records.summary import LoggedSearch, SearchInfo, SearchSummary
from autoprune.tracking.records.trial import State, TrialRecord

EXPERIMENT = "autoprune"
PLACE_FILE = "mlflow.json"
RELOG = "they are logged when the search is resumed"

logger = logging.getLogger(__name__)


class Tracker:
    """Writes one search to MLflow through a process of its own.

    Lifecycle: construct it when the search starts (it returns at once; MLflow is imported
    beside it), `sync` the records that a resumed search already has, `log_trial` whenever a
    trial has news, `log_summary` whenever the front has, `close` at the end. Each hands over in
    well under a millisecond, from any thread, and may be called again with the same data.

    MLflow may be slow or go away: the search goes on, ``warn`` gets one line, and what was not
    logged is logged at the end or on resume, from the search's own records. When the driver is
    killed, the process ends the runs that stand open before it leaves.

    Args:
        info: The search; its ``key`` finds the same runs again on resume.
        home: Directory of the default database and of artifacts that no server keeps.
        uri: Tracking URI; sqlite in ``home`` by default. `check_tracking` it first.
        directory: The search's directory, where `mlflow.json` says where its runs are.
        experiment: Name of the MLflow experiment.
        warn: Called with one line when MLflow fails; logs a warning by default.
    """

    def __init__(
        self,
        info: SearchInfo,
        *,
        home: Path,
        uri: str | None = None,
        directory: Path | None = None,
        experiment: str = EXPERIMENT,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.uri = uri or default_uri(home)
        self.info = info
        self.directory = directory
        self.place: LoggedSearch | None = read_place(directory) if directory else None
        self.report: dict[str, Any] = {}
        self._warn = warn or logger.warning
        self._lock = threading.Lock()
        self._here = threading.Event()
        self._ended = threading.Event()
        self._lost = False
        if not is_server(self.uri):
            home.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autoprune.tracking.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("AUTOPRUNE_DEBUG") else subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the driver only, which then closes
            env=_environment(),
        )
        self._reader = threading.Thread(target=self._listen, daemon=True, name="tracker")
        self._reader.start()
        atexit.register(self._at_exit)
        self._send(
            {
                "do": "open",
                "uri": self.uri,
                "info": info.model_dump(mode="json"),
                "artifacts": artifact_root(self.uri, home),
                "experiment": experiment,
            }
        )

    def sync(
        self, records: Iterable[TrialRecord], *, reason: str = "the search was killed"
    ) -> None:
        """Log what of these records is not yet logged, and end runs that no record keeps alive.

        A run that stands as RUNNING though no record here is `running` becomes KILLED with
        ``reason``.
        """
        items = [record.model_dump(mode="json") for record in records]
        self._send({"do": "sync", "records": items, "reason": reason})

    def log_trial(self, record: TrialRecord) -> None:
        """Log a trial as far as it has come."""
        self._send({"do": "trial", "record": record.model_dump(mode="json")})

    def log_summary(self, summary: SearchSummary) -> None:
        """Log the front: figures, table, plots and marks on its trials."""
        self._send({"do": "summary", "summary": summary.model_dump(mode="json")})

    def log_text(self, path: str, text: str) -> None:
        """Keep a text beside the search's run, as the artifact ``path``."""
        self._send({"do": "text", "path": path, "text": text})

    def close(self, state: State = "complete", reason: str = "", *, timeout: float = 30.0) -> bool:
        """End the search's run, wait until all is logged, and say whether it was.

        Args:
            state: How the search ended: complete, stopped or failed.
            reason: One line that says why, where it did not complete.
            timeout: Seconds to wait for MLflow. What takes longer is finished by the writer
                on its own, also when this process has left.
        """
        atexit.unregister(self._at_exit)
        if self._process.poll() is None:
            self._send({"do": "close", "state": state, "reason": reason})
            if not self._ended.wait(timeout):
                self._lose("MLflow is slow: its last runs are still being written, on their own")
                self._close_stdin()
                return False
        self._end_process()
        whole = bool(self.report.get("closed")) and not self.report.get("unlogged")
        if not whole:
            self._lose(f"MLflow does not have all of this search's runs; {RELOG}")
        return whole

    def wait_place(self, timeout: float = 20.0) -> LoggedSearch | None:
        """Return where the search is found in MLflow, as soon as that is known."""
        self._here.wait(timeout)
        return self.place

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None and not self._ended.is_set():
            if error is None:
                self.close()
            elif isinstance(error, KeyboardInterrupt):
                self.close("stopped", "interrupted")
            else:
                self.close("failed", str(error).splitlines()[0] if str(error) else repr(error))

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message) + "\n"
        try:
            with self._lock:
                assert self._process.stdin is not None
                self._process.stdin.write(line)
                self._process.stdin.flush()
        except (OSError, ValueError):
            self._lose(f"the process that writes to MLflow has ended; trials go on, {RELOG}")

    def _lose(self, text: str) -> None:
        if not self._lost:
            self._lost = True
            self._warn(text)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "warning" in message:
                self._warn(f"{message['warning']}; trials go on, and {RELOG} at the latest")
            elif "place" in message:
                self._note_place(LoggedSearch.model_validate(message["place"]))
            elif "end" in message:
                self.report = message["end"]
                self._ended.set()
        self._ended.set()

    def _note_place(self, place: LoggedSearch) -> None:
        self.place = place
        if self.directory is not None:
            with contextlib.suppress(OSError):
                self.directory.mkdir(parents=True, exist_ok=True)
                (self.directory / PLACE_FILE).write_text(place.to_json(indent=1))
        self._here.set()

    def _close_stdin(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _end_process(self) -> None:
        self._close_stdin()
        deadline = time.monotonic() + 2
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=2)

    def _at_exit(self) -> None:
        # The driver leaves without a word: the end of stdin tells the writer, which settles.
        self._close_stdin()


def _environment() -> dict[str, str]:
    """The writer imports the package that this process runs, wherever that lies."""
    package = str(Path(__file__).resolve().parents[2])
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def read_place(directory: Path) -> LoggedSearch | None:
    """Return where the search of a directory is found in MLflow, or None where it never was."""
    try:
        return LoggedSearch.from_json((directory / PLACE_FILE).read_text())
    except (OSError, AutoPruneError):
        return None
