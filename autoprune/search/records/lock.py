"""A lock file that names its holder, so that a dead holder's lock is taken over."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import TracebackType

import psutil

from autoprune.errors import AutoPruneError


class Lock:
    """Held by one living process at a time; survives ``kill -9`` of its holder.

    A holder is known by host, process id and the process's start time, since ids are used
    again. A holder on another host cannot be seen: it counts as alive.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._held = False

    def holder(self) -> dict[str, object] | None:
        """Return who holds the lock, or None where nobody living does."""
        try:
            claim = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None
        if claim.get("host") != socket.gethostname():
            return dict(claim)
        try:
            alive = abs(psutil.Process(int(claim["pid"])).create_time() - claim["started"]) < 1.0
        except (psutil.Error, KeyError, ValueError, TypeError):
            alive = False
        return dict(claim) if alive else None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AutoPruneError: a living process holds it (names its id).
        """
        claim = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
        }
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(claim))
        try:
            for _ in range(2):
                try:
                    os.link(part, self.path)  # fails where the file exists: exactly one wins
                except FileExistsError:
                    holder = self.holder()
                    if holder is not None:
                        raise AutoPruneError(
                            f"{self.what} is being run by process {holder['pid']} on "
                            f"{holder['host']}: wait for it, or end it (if that host is gone, "
                            f"remove {self.path})"
                        ) from None
                    self.path.unlink(missing_ok=True)
                else:
                    self._held = True
                    return
            raise AutoPruneError(f"{self.what} was taken by another process just now; wait for it")
        finally:
            part.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the lock back, if held."""
        if self._held:
            self.path.unlink(missing_ok=True)
            self._held = False

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
