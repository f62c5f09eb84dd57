"""What is looked at, each with the mend of what is wrong: a table of small functions."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from autoprune.cost.bytes import format_bytes
from autoprune.doctor.machine import Machine
from autoprune.errors import AutoPruneError
from autoprune.hub import reachable, switched_off
from autoprune.search.preflight import check_home
from autoprune.search.settings import SearchSettings

GIB = 2**30

DRIVER_BYTES, WORKER_BYTES = 3 * GIB // 2, 9 * GIB // 8
"""Memory of the driver with Ray, and of one worker, on the embedded model (experiments/overhead:
3.1 to 4.4 GiB with two workers)."""

DISK_BYTES = 2 * GIB
"""Free disk that a search of a small model can rely on: caches, kept weights, records."""

OPEN_FILES = 4096
"""Ray opens a few hundred files a worker."""

MAIN = ("torch", "transformers", "lmms-eval", "ray", "optuna", "mlflow", "datasets")
"""Packages whose versions are shown."""

IMPORTED = ("torch", "torchvision", "transformers")
"""Modules that do not load beside a build they were not made for."""

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what, in a word or two.
        state: ``problem`` keeps a search from running, ``note`` is worth knowing.
        found: how it is.
        mend: what to do about it; empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Patient:
    """Whom the doctor looks at: a machine, and the home directory of the searches to come."""

    machine: Machine
    home: Path


def _python(patient: Patient) -> Iterator[Check]:
    found = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    mend = "" if fits else "make a new environment with Python 3.11, 3.12 or 3.13"
    yield Check("python", "ok" if fits else "problem", f"{found} in {sys.prefix}", mend)


def _packages(patient: Patient) -> Iterator[Check]:
    from packaging.requirements import Requirement

    wrong = []
    for line in metadata.requires("autoprune") or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append((f"{wanted.name} is missing", f"'{wanted}'"))
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append((f"{wanted.name} {version} is not {wanted.specifier}", f"'{wanted}'"))
    for found, package in wrong:
        yield Check("packages", "problem", found, f"pip install {package}")
    if not wrong:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in MAIN)
        yield Check("packages", "ok", versions)


def _imports(patient: Patient) -> Iterator[Check]:
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken build raises
            line = (str(error).splitlines() or [type(error).__name__])[0]
            yield Check(
                "imports",
                "problem",
                f"{name} does not load ({line})",
                "install torch and torchvision of one release from one place",
            )
            return
    yield Check("imports", "ok", ", ".join(IMPORTED) + " load together")


def _cores(patient: Patient) -> Iterator[Check]:
    machine = patient.machine
    found = f"{machine.cores} cores, {machine.load:.1f} of them busy"
    if machine.load > 0.5 * machine.cores:
        yield Check(
            "processor", "note", found, "end other work, or expect more time than is forecast"
        )
    else:
        yield Check("processor", "ok", found)


def _gpus(patient: Patient) -> Iterator[Check]:
    machine = patient.machine
    for gpu in machine.gpus:
        found = f"{gpu.name}, {format_bytes(gpu.free)} free of {format_bytes(gpu.memory)}"
        yield Check("GPU", "ok", found)
    if not machine.gpus and machine.driver:
        yield Check(
            "GPU",
            "problem",
            "an NVIDIA driver is there, and torch sees no GPU",
            "install a torch that matches the driver, or make the GPU visible to this process",
        )
    elif not machine.gpus:
        yield Check("GPU", "note", "none: all is computed on the CPU")


def _memory(patient: Patient) -> Iterator[Check]:
    machine = patient.machine
    found = f"{format_bytes(machine.available)} free of {format_bytes(machine.memory)}"
    if workers_within(machine.available) < 1:
        least = format_bytes(DRIVER_BYTES + WORKER_BYTES)
        yield Check("memory", "problem", found, f"free some: a search needs {least} at the least")
    else:
        yield Check("memory", "ok", found)


def _shared(patient: Patient) -> Iterator[Check]:
    shared = patient.machine.shared
    default = SearchSettings.model_fields["cache_limit"].default
    if shared is None:
        yield Check("shared memory", "note", "no /dev/shm: Ray writes to /tmp, which is slower")
    elif shared < GIB:
        yield Check(
            "shared memory",
            "note",
            f"{format_bytes(shared)} free in /dev/shm: workers share caches there, up to {default}",
            "give a container more, such as docker run --shm-size=4g",
        )
    else:
        yield Check("shared memory", "ok", f"{format_bytes(shared)} free in /dev/shm")


def _disk(patient: Patient) -> Iterator[Check]:
    try:
        check_home(patient.home)
    except AutoPruneError as error:
        found, _, mend = str(error).partition("; ")
        yield Check("disk", "problem", found, mend)
        return
    free = patient.machine.disk
    found = f"{format_bytes(free)} free for {patient.home}"
    if free < DISK_BYTES:
        mend = f"free some, or name another directory with --home: {format_bytes(DISK_BYTES)} do"
        yield Check("disk", "problem", found, mend)
    else:
        yield Check("disk", "ok", found)


def _files(patient: Patient) -> Iterator[Check]:
    limit = patient.machine.open_files
    if 0 <= limit < OPEN_FILES:
        yield Check(
            "open files", "note", f"{limit:,} at once, and Ray may want more", "ulimit -n 65536"
        )


def _hub(patient: Patient) -> Iterator[Check]:
    offline = switched_off()
    if offline:
        found = f"switched off by {', '.join(offline)}: models and data come from this machine"
        yield Check("hub", "note", found, f"unset {' '.join(offline)} to fetch by name")
    elif reachable():
        yield Check("hub", "ok", "asked for models and data that go by a name")
    else:
        found = "does not answer: models and data come from this machine"
        yield Check("hub", "note", found, "connect it to fetch by name, or give directories")


def _embedded(patient: Patient) -> Iterator[Check]:
    from autoprune.pipeline.prepare import inspect
    from autoprune.zoo import EMBEDDED

    try:
        found = inspect(EMBEDDED)
    except AutoPruneError as error:
        yield Check("embedded model", "problem", str(error), "install autoprune again")
        return
    yield Check("embedded model", "ok", f"{found.spec.total_params:,} parameters")


CHECKS: tuple[Callable[[Patient], Iterator[Check]], ...] = (
    _python,
    _packages,
    _imports,
    _cores,
    _gpus,
    _memory,
    _shared,
    _disk,
    _files,
    _hub,
    _embedded,
)


def examine(patient: Patient) -> list[Check]:
    """Return all that was looked at, in the order of :data:`CHECKS`."""
    return [check for look in CHECKS for check in look(patient)]


def workers_within(memory: int, held: int = 0) -> int:
    """Return how many workers so many bytes of memory suffice for.

    Args:
        memory: that is free.
        held: bytes of a worker's model, beside Python and its libraries.
    """
    return max(0, (memory - DRIVER_BYTES) // (WORKER_BYTES + held))
