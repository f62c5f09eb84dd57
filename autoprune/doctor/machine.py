"""This machine as a search sees it: cores, memory, GPUs, disk, limits of its container included."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")

UNLIMITED = 2**62
"""Limits from here up are a kernel's way to say that there is none."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees: its name and its memory in bytes, all and free."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """What there is to compute with.

    Attributes:
        cores: that this process may use, at least 1.
        load: processes that wanted a core in the last minute, on average.
        memory: bytes of main memory, or of the container's limit where that is less.
        available: bytes of it that are free.
        shared: bytes free in /dev/shm, or None where there is none.
        disk: bytes free where the home directory is, or will be.
        open_files: that a process may have.
        gpus: that torch sees.
        driver: whether an NVIDIA driver is there, whatever torch sees.
    """

    cores: int
    load: float
    memory: int
    available: int
    shared: int | None
    disk: int
    open_files: int
    gpus: tuple[Gpu, ...]
    driver: bool


def this_machine(home: Path) -> Machine:
    """Look at this machine; ``home`` is where a search would write."""
    import resource

    found = psutil.virtual_memory()
    limit, used = memory_limit(CGROUP)
    available = found.available if limit is None else min(found.available, limit - used)
    return Machine(
        cores=usable_cores(CGROUP),
        load=os.getloadavg()[0],
        memory=found.total if limit is None else min(found.total, limit),
        available=max(0, available),
        shared=psutil.disk_usage(str(SHARED)).free if SHARED.is_dir() else None,
        disk=psutil.disk_usage(str(_standing(home))).free,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        gpus=_gpus(),
        driver=Path("/proc/driver/nvidia/version").exists(),
    )


def usable_cores(cgroup: Path) -> int:
    """Return the cores that this process may use: those it is bound to, and its time on them.

    Args:
        cgroup: of this process, version 2 or 1.
    """
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        bound = os.cpu_count() or 1
    quota = _words(cgroup / "cpu.max") or [
        *_words(cgroup / "cpu" / "cpu.cfs_quota_us"),
        *_words(cgroup / "cpu" / "cpu.cfs_period_us"),
    ]
    if len(quota) == 2 and quota[0].isdigit():
        bound = min(bound, int(quota[0]) // max(1, int(quota[1])))
    return max(1, bound)


def memory_limit(cgroup: Path) -> tuple[int | None, int]:
    """Return the most memory that a container grants, None for no limit, and what of it is used.

    Args:
        cgroup: of this process, version 2 or 1.
    """
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _words(cgroup / limit), _words(cgroup / used)
        if most and most[0].isdigit() and int(most[0]) < UNLIMITED:
            return int(most[0]), int(now[0]) if now else 0
    return None, 0


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _standing(home: Path) -> Path:
    """Return the nearest directory that is there, from ``home`` up."""
    place = Path(home).expanduser().absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def _gpus() -> tuple[Gpu, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for place in range(torch.cuda.device_count()):
        free, memory = torch.cuda.mem_get_info(place)
        found.append(Gpu(torch.cuda.get_device_name(place), int(memory), int(free)))
    return tuple(found)
