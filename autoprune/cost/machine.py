"""The machine that runs this: what it computes on, and the memory that it has."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import psutil
import torch

KEEPS = 0.15
"""Share of a machine's memory that is left to the system (assumed)."""


@dataclass(frozen=True)
class Machine:
    """What a model runs on here: the GPU if there is one, else the CPU.

    Attributes:
        title: its processor in words.
        installed: bytes of memory that it has.
        device: as torch names it.
        threads: that torch computes with here; 0 on a GPU.
    """

    title: str
    installed: int
    device: str
    threads: int = 0

    @property
    def memory(self) -> int:
        """Bytes that a model can use: what is installed less what is left to the system."""
        return int((1 - KEEPS) * self.installed)

    @property
    def free(self) -> int:
        """Bytes that nothing uses at this moment."""
        if self.device == "cuda":
            return int(torch.cuda.mem_get_info()[0])
        return int(psutil.virtual_memory().available)


def this_machine() -> Machine:
    """Return the machine that runs this."""
    if torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        return Machine(torch.cuda.get_device_name(), whole, "cuda")
    threads = torch.get_num_threads()
    return Machine(_processor(), psutil.virtual_memory().total, "cpu", threads)


def titled(machine: Machine, threads: int = 0) -> str:
    """Return a machine in words: its processor, and the threads that compute on it."""
    if not machine.threads:
        return machine.title
    count = threads or machine.threads
    return f"{machine.title}, {count} thread{'s' if count > 1 else ''}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            rows = [line for line in stream if line.startswith("model name")]
        return rows[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
