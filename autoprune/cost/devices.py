"""Devices that models are planned for: a catalogue with sources, and entries measured here.

The catalogue is ``catalogue/devices.yaml``. ``autoprune profile`` measures a machine and writes an
entry as a JSON file; a name, or the path of such a file, stands for a device everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean

GIB = 2**30
PROFILES = "devices"
"""Directory of a home that keeps measured entries."""

HERE = "here"
"""Name of this machine; ``autoprune profile`` keeps it so, where no other name is given."""

DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")
"""Dtypes that a device can state operations for."""


@dataclass(frozen=True)
class Device:
    """A device in the figures that a model's cost is counted from.

    Attributes:
        name: that it is asked for by.
        title: in words.
        kind: such as ``phone`` or ``server``; a heading of the list.
        memory: bytes that a model can use: what is installed less what the system keeps.
        bandwidth: bytes a second between memory and chip.
        compute: dtype -> dense operations a second (a multiply-add is two); a dtype that nothing
            is known for is left out.
        sources: documents that the figures are from, or how they were measured.
        unchecked: figures that no source was found for: ``memory``, ``bandwidth`` or a dtype.
        measured: whether they were measured here rather than stated by a vendor.
        installed: bytes of memory that it has.
        keeps: share of that which the system keeps, 0 to 1.
        basis: what that share rests on.
        cache_bandwidth: bytes a second that a token's attention reads of its cache; 0 where it was
            not measured, and ``bandwidth`` counts.
        reading: columns of a matrix -> bytes a second that its product with a vector reads, as
            narrow ones are read slower; empty where it was not measured, and ``bandwidth`` counts.
        layer_seconds: time that a decoder layer takes beside reading and computing, a token;
            0 where it was not measured.
        step_seconds: time that a token takes beside its layers and head; 0 where not measured.
        threads: of a CPU that all this was measured with; 0 where nothing says.
    """

    name: str
    title: str
    kind: str
    memory: int
    bandwidth: float
    compute: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    measured: bool = False
    installed: int = 0
    keeps: float = 0.0
    basis: str = ""
    cache_bandwidth: float = 0.0
    reading: Mapping[int, float] = field(default_factory=dict)
    layer_seconds: float = 0.0
    step_seconds: float = 0.0
    threads: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values that :func:`read_device` reads."""
        return {**asdict(self), "reading": {str(wide): rate for wide, rate in self.reading.items()}}

    def reads(self, columns: int) -> float:
        """Return the bytes a second of a matrix of so many columns, between measured widths."""
        if not self.reading:
            return self.bandwidth
        widths = sorted(self.reading)
        if columns <= widths[0]:
            return self.reading[widths[0]]
        for low, high in pairwise(widths):
            if columns <= high:
                part = math.log(columns / low) / math.log(high / low)
                return self.reading[low] + part * (self.reading[high] - self.reading[low])
        return self.reading[widths[-1]]


@lru_cache(maxsize=1)
def devices() -> Mapping[str, Device]:
    """Return the catalogue, by name."""
    import yaml

    path = resources.files("autoprune.cost") / "catalogue" / "devices.yaml"
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    found: dict[str, Device] = {}
    for name, row in read["devices"].items():
        kind = {**read["kinds"][row["kind"]], **row}
        several = isinstance(row["memory"], list)
        for gib in row["memory"] if several else [row["memory"]]:
            full = f"{name}-{gib}gb" if several else name
            keeps = _from_size(kind["keeps"], gib)
            found[full] = Device(
                name=full,
                title=f"{row['title']}, {gib} GB" if several else row["title"],
                kind=row["kind"],
                memory=int((1 - keeps) * gib * GIB),
                bandwidth=row["bandwidth"] * 1e9,
                compute={dtype: tera * 1e12 for dtype, tera in row.get("compute", {}).items()},
                sources=tuple(_page(source, read["pages"]) for source in row["sources"]),
                unchecked=tuple(row.get("unchecked", ())),
                installed=gib * GIB,
                keeps=keeps,
                basis=kind["basis"],
            )
    return found


def _from_size(keeps: float | Mapping[int, float], gib: int) -> float:
    """Return the share that a system keeps of so much memory."""
    if not isinstance(keeps, Mapping):
        return keeps
    return keeps[max(least for least in keeps if least <= gib)]


def _page(source: str, pages: Mapping[str, str]) -> str:
    """Return a source with its page named in full."""
    key, _, says = source.partition(": ")
    return f"{pages[key]}: {says}" if key in pages else source


def find_device(name: str, home: Path | None = None) -> Device:
    """Return a device by name, or by the path of an entry that ``autoprune profile`` wrote.

    Args:
        name: of the catalogue, of an entry kept under ``home``, or a path to a JSON file.
        home: directory that measured entries are kept in.

    Raises:
        AutoPruneError: there is none of that name (says the nearest), or the file is no entry.
    """
    if name in devices():
        return devices()[name]
    mine = profiled(home)
    if name in mine:
        return mine[name]
    if name.endswith(".json") or "/" in name:
        return read_device(Path(name))
    known = [*devices(), *mine]
    near = did_you_mean(name, known)
    # The whole catalogue would be no line.
    hint = near if "did you mean" in near else ""
    raise AutoPruneError(
        f"unknown device {name!r}{hint}: 'autoprune devices' lists what is known, "
        "'autoprune profile' measures this machine"
    )


def profiled(home: Path | None) -> dict[str, Device]:
    """Return the entries that were measured and are kept under ``home``, by name.

    Raises:
        AutoPruneError: one of them is damaged.
    """
    if home is None or not (place := Path(home) / PROFILES).is_dir():
        return {}
    return {path.stem: read_device(path) for path in sorted(place.glob("*.json"))}


def read_device(path: Path) -> Device:
    """Return the device that a JSON file describes.

    Raises:
        AutoPruneError: it cannot be read, or is no entry.
    """
    mend = "'autoprune profile -o FILE' writes one"
    try:
        values = json.loads(path.read_text())
        reading = {int(wide): rate for wide, rate in values.get("reading", {}).items()}
        lists = {name: tuple(values.get(name, ())) for name in ("sources", "unchecked")}
        device = Device(**{**values, **lists, "reading": reading})
    except OSError as error:
        raise AutoPruneError(f"device {path}: {error.strerror or error}; {mend}") from None
    except (ValueError, TypeError, AttributeError):
        raise AutoPruneError(f"device {path} is no entry of a device: {mend}") from None
    figures = {
        "memory": device.memory,
        "bandwidth": device.bandwidth,
        **{f"compute of {name}": rate for name, rate in dict(device.compute).items()},
        **{f"reading at {wide}": rate for wide, rate in device.reading.items()},
    }
    for what, figure in figures.items():
        if not isinstance(figure, (int, float)) or not math.isfinite(figure) or figure <= 0:
            raise AutoPruneError(f"device {path}: its {what} is {figure!r}, not above zero; {mend}")
    if unknown := set(device.compute) - set(DTYPES):
        raise AutoPruneError(
            f"device {path}: unknown dtype {min(unknown)!r}{did_you_mean(min(unknown), DTYPES)}"
        )
    return device
