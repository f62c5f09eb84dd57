"""What a search's stages were forecast to take, and what they took, over all its sessions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from autoprune.search.records.store import SearchStore, write_atomically
from autoprune.tracking.records.summary import StageRecord

STAGES = ("prepare", "trials", "confirm")

FILE = "stages.json"


@dataclass(frozen=True)
class Forecast:
    """Seconds and bytes of a search, by stage.

    Attributes:
        prepare: seconds until the first trial starts.
        trials: seconds of all trials, by the workers given.
        confirm: seconds of the confirmation.
        disk: bytes written: caches and kept weights.
        runs: full recoveries in the confirmation, at most.
        tokens: mean length of a sample.
        ready: whether what trials share lies prepared from an earlier search.
        stopped: trials that early stopping is expected to stop.
    """

    prepare: float
    trials: float
    confirm: float
    disk: int
    runs: int
    tokens: int
    ready: bool = False
    stopped: float = 0.0

    @property
    def seconds(self) -> float:
        """All stages together."""
        return self.prepare + self.trials + self.confirm

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage."""
        return {"prepare": self.prepare, "trials": self.trials, "confirm": self.confirm}


class Stages:
    """Stop watch of a search's stages; what it has counted is kept in the search's directory.

    The forecast is that of the first session. Where the number of trials has changed since, it
    is of another search, and left out.

    Args:
        store: of the search; must be locked.
        trials: that are asked for.
        clock: seconds; for tests.
    """

    def __init__(
        self, store: SearchStore, trials: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = store.directory / FILE
        self._clock = clock
        self._trials = trials
        self._known = json.loads(self._path.read_text()) if self._path.is_file() else {}

    @property
    def fresh(self) -> bool:
        """Whether no session has begun here before."""
        return not self._known

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Note what the stages are forecast to take."""
        self._known |= {"trials": self._trials, "forecast": dict(seconds)}
        self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what runs inside to a stage, however it ends."""
        began = self._clock()
        try:
            yield
        finally:
            taken = self._known.setdefault("taken", {})
            taken[name] = taken.get(name, 0.0) + self._clock() - began
            self._write()

    def records(self) -> tuple[StageRecord, ...]:
        """Return forecast and fact of each stage that has run."""
        same = self._known.get("trials") == self._trials
        forecast = self._known.get("forecast", {}) if same else {}
        taken = self._known.get("taken", {})
        return tuple(
            StageRecord(stage=name, forecast=forecast.get(name), seconds=taken[name])
            for name in STAGES
            if name in taken
        )

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(self._known, indent=1))
