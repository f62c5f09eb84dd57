"""Pixels of the packed layout while a set is encoded: kept, or made again where they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.data.images import LazyTiles
from autoprune.data.pictures import PictureKeeper
from autoprune.errors import AutoPruneError


def tiles_of(made: Mapping[str, Any]) -> np.ndarray:
    """Return the tiles of one row's images, ``[tiles, 3, height, width]``."""
    tiles: np.ndarray = np.asarray(made["pixel_values"])
    return tiles


class PixelKeeper:
    """Collects the tiles of a set, up to a limit.

    Args:
        processor: of the model.
        dtype: that pixels are kept in.
        keep: bytes of them that are kept; beyond, they are made again. None keeps any number.
        samples: the set.

    Attributes:
        tiles: how many there are so far.
    """

    def __init__(self, processor: Any, dtype: np.dtype, keep: int | None, samples: Any) -> None:
        self.processor = processor
        self.dtype = dtype
        self.keep = keep
        self.pictures = PictureKeeper(samples)
        self.offsets = [0]
        self.sizes: set[tuple[int, ...]] = set()
        self.held: list[np.ndarray] | None = []

    @property
    def tiles(self) -> int:
        """How many tiles there are so far."""
        return self.offsets[-1]

    def add(self, index: int, images: Sequence[Any], tiles: np.ndarray) -> None:
        """Add the tiles of a sample's images, ``[tiles, 3, height, width]``.

        Raises:
            AutoPruneError: they have another size than those before.
        """
        self.sizes.add(tuple(tiles.shape[1:]))
        if len(self.sizes) > 1:
            raise AutoPruneError("images come out of the processor in several sizes; fix one size")
        self.offsets.append(self.offsets[-1] + len(tiles))
        if self.keep is not None:
            self.pictures.add(index, images)
        if self.held is None:
            return
        self.held.append(np.asarray(tiles).astype(self.dtype))
        if self.keep is not None and self.tiles * self.held[0][0].nbytes > self.keep:
            self.held = None

    def frozen(self) -> np.ndarray | LazyTiles | None:
        """Return all tiles as one array, or as one that is made where it is read."""
        if not self.tiles:
            return None
        if self.held is not None:
            return np.concatenate(self.held)
        offsets = np.array(self.offsets, dtype=np.int64)
        return LazyTiles(self.processor, self.pictures.pictures(), offsets, self.dtype)
