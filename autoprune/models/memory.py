"""How much memory a piece of work held at its peak, measured."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """What :func:`peak_memory` found.

    Attributes:
        bytes: most memory held at a time within; 0 until it ends.
    """

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def peak_memory(device: torch.device | str) -> Iterator[Peak]:
    """Measure the most memory that is held within.

    On a GPU that is what torch has allocated on it. On a CPU it is the whole process, resident
    pages of mapped files included; where the system cannot forget an earlier peak (anything but
    Linux), it is the highest of the process's life.

    Args:
        device: where the work is done.
    """
    device = torch.device(device)
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _forget()
    try:
        yield peak
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak.bytes = int(torch.cuda.max_memory_allocated(device))
        else:
            peak.bytes = _highest()


def _forget() -> None:
    """Let the kernel count the highest resident size from now on, where it does so."""
    try:
        _REFS.write_text("5")
    except OSError:
        return


def _highest() -> int:
    try:
        rows = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(rows["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024
