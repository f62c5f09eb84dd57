"""Where samples come from: five splits, disjoint by image, of the shipped or of a user's data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from autoprune.data.samples import SampleSet

SPLIT_NAMES = ("train", "calibration", "search", "confirm", "report")
"""Recovery; importance; what trials are scored on; what decides the front; what decides nothing."""

ALL = "all"
"""Beside these names: every sample that a search asks about, and no recovery trains on."""

ASKED = ("search", "confirm")
"""What :data:`ALL` is made of."""


@dataclass(frozen=True)
class SourceSpec:
    """One place that samples are read from.

    Attributes:
        ref: a file, a folder, or the name of a data set on the hub.
        weight: its share of the mix, against the other weights; None takes all of every source.
    """

    ref: str
    weight: float | None = None


@dataclass(frozen=True)
class DataSpec:
    """A user's data, as a search was asked to read it: small, picklable, known by its content.

    Attributes:
        sources: in the order they were named.
        images: directory that relative image paths start from; None: where the file lies.
        columns: what is read -> the column that holds it, where it has another name.
        max_length: most tokens of a sample; None: what the model was made for.
        identity: content hash of what the sources hold.
    """

    sources: tuple[SourceSpec, ...]
    images: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    max_length: int | None = None
    identity: str = ""

    @property
    def mapping(self) -> Mapping[str, str]:
        """The columns as a mapping."""
        return dict(self.columns)


class Splits(Protocol):
    """Five sets of samples, disjoint by image: no image of one is in another."""

    @property
    def name(self) -> str:
        """Short name for people."""
        ...

    @property
    def identity(self) -> str:
        """Content hash of all splits."""
        ...

    def size(self, split: str) -> int:
        """Return how many samples a split has, of ``SPLIT_NAMES`` or ``ALL``.

        Raises:
            AutoPruneError: for an unknown split.
        """
        ...

    def open(self, split: str, size: int | None = None) -> SampleSet:
        """Return the first ``size`` samples of a split; they are read when they are asked for.

        Args:
            split: one of ``SPLIT_NAMES``, or ``ALL``; where samples are made on demand, that is
                ``confirm``.
            size: number of samples; by default all that :meth:`size` says. Splits that are made
                on demand have any number, others no more than they have.

        Raises:
            AutoPruneError: for an unknown split or a size below one.
        """
        ...
