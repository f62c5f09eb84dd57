"""Arrays and tools that all trials share: put once, opened once a worker process.

Big arrays live in Ray's object store; every worker of a machine maps the same memory. They are
read-only there, and must be: a write would reach all trials. Whoever trains or changes a
weight clones it first.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from autoprune.resources import Resources
from autoprune.search.work import Bench, Work

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class Parcel:
    """What travels to a worker: the small part by pickle, references to the big one."""

    identity: str
    work: Work
    arrays: Mapping[str, ray.ObjectRef[Any]]
    resources: Resources
    rungs: tuple[float, ...]


def pack(
    work: Work, arrays: Mapping[str, np.ndarray], resources: Resources, rungs: tuple[float, ...]
) -> Parcel:
    """Put the arrays into Ray's object store, each once.

    The references keep them there: hold the parcel as long as workers may open it.
    """
    import ray

    references = {name: ray.put(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return Parcel(uuid4().hex, work, references, resources, rungs)


_opened: dict[str, Bench] = {}


def open_bench(parcel: Parcel) -> Bench:
    """Return the bench of this worker process; opens it at the first call."""
    if parcel.identity not in _opened:
        import ray

        _opened.clear()  # the bench of another search, should the process have served one
        names = list(parcel.arrays)
        values = ray.get([parcel.arrays[name] for name in names])
        arrays = dict(zip(names, values, strict=True))
        for name, array in arrays.items():
            # Tiny arrays come inline, as a private copy; nobody may write to those either.
            array.flags.writeable = False
            assert not array.flags.writeable, name
        parcel.resources.claim()
        _opened[parcel.identity] = parcel.work.open(arrays, parcel.resources)
        # What is here now stays; collecting after each trial looks at the trial's things only.
        gc.collect()
        gc.freeze()
    return _opened[parcel.identity]
