"""Arrays of unlike length, one behind the other: as many tiles or patches as an image has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.errors import AutoPruneError


@dataclass(frozen=True, eq=False)
class Ragged:
    """Items of unlike length along their first axis, as one array.

    Attributes:
        values: ``[entries of all items, ...]``.
        offsets: ``int64 [items + 1]`` into ``values``.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.offsets) - 1

    @staticmethod
    def of(items: Sequence[np.ndarray]) -> Ragged:
        """Put items together.

        Raises:
            AutoPruneError: if they differ in more than their length.
        """
        if len({item.shape[1:] for item in items}) > 1:
            raise AutoPruneError(
                "tiles come out of the processor in several sizes; fix one size there"
            )
        lengths = [len(item) for item in items]
        return Ragged(np.concatenate(list(items)), np.concatenate([[0], np.cumsum(lengths)]))

    def joined(self, chosen: np.ndarray) -> np.ndarray:
        """Return chosen items one behind the other, ``[their entries, ...]``."""
        starts = self.offsets[chosen]
        return self.values[ranges(starts, self.offsets[chosen + 1] - starts)]

    def stacked(self, chosen: np.ndarray) -> np.ndarray:
        """Return chosen items side by side, ``[items, most entries, ...]``, filled up with 0."""
        starts = self.offsets[chosen]
        lengths = self.offsets[chosen + 1] - starts
        shape = (len(chosen), int(lengths.max()), *self.values.shape[1:])
        made = np.zeros(shape, dtype=self.values.dtype)
        made[np.arange(shape[1]) < lengths[:, None]] = self.values[ranges(starts, lengths)]
        return made


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return ``start, start + 1, …`` of every range, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + lengths, lengths)
