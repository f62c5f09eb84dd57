"""The pictures of a set, for when what a processor makes of them is too much to keep.

An item is what one sample shows. Its pictures are held as they are, or read again from where the
samples come from, which then costs no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from autoprune.data.ragged import Ragged
from autoprune.identity import content_hash


class Pictures(Protocol):
    """Pictures by item."""

    @property
    def identity(self) -> str:
        """Content hash."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def of(self, item: int) -> list[Any]:
        """Return the pictures of an item, in order."""
        ...


@dataclass(frozen=True, eq=False)
class HeldPictures:
    """Pictures as numbers.

    Attributes:
        pixels: ``uint8``, of each picture all its numbers in one row.
        sizes: ``int32 [pictures, 2]``: height and width.
        offsets: ``int64 [items + 1]`` into the pictures.
    """

    pixels: Ragged
    sizes: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of_items(items: Sequence[Sequence[np.ndarray]]) -> HeldPictures:
        """Hold pictures, ``uint8 [height, width, 3]``, by item."""
        flat = [picture for item in items for picture in item]
        return HeldPictures(
            Ragged.of([picture.reshape(-1) for picture in flat]),
            np.array([picture.shape[:2] for picture in flat], dtype=np.int32),
            np.cumsum([0, *(len(item) for item in items)]),
        )

    @property
    def identity(self) -> str:
        """Content hash."""
        return content_hash(self.pixels, self.sizes, self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.pixels.values.nbytes)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.offsets) - 1

    def of(self, item: int) -> list[Any]:
        """Return the pictures of an item, in order."""
        from PIL import Image

        found = []
        for place in range(int(self.offsets[item]), int(self.offsets[item + 1])):
            flat = self.pixels.joined(np.array([place]))
            found.append(Image.fromarray(flat.reshape(*self.sizes[place].tolist(), 3)))
        return found


@dataclass(frozen=True, eq=False)
class ReadPictures:
    """Pictures that are read from their samples whenever they are asked for.

    Attributes:
        samples: a set that can be read again at any time, and travels by pickle.
        indices: ``int64 [items]``: the sample of each item.
        counts: ``int64 [items]``: how many of its pictures are shown, from the first on.
    """

    samples: Any
    indices: np.ndarray
    counts: np.ndarray

    @property
    def identity(self) -> str:
        """Content hash."""
        return content_hash(self.samples.identity, self.indices, self.counts)

    @property
    def nbytes(self) -> int:
        """Bytes held: none."""
        return 0

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.indices)

    def of(self, item: int) -> list[Any]:
        """Return the pictures of an item, in order."""
        shown = self.samples[int(self.indices[item])].images
        return list(shown[: int(self.counts[item])])


class PictureKeeper:
    """Collects pictures while a set is encoded, or notes where they are read from.

    Args:
        samples: the set; one that says ``rereadable`` is read again.
    """

    def __init__(self, samples: Any) -> None:
        self.source = samples if getattr(samples, "rereadable", False) else None
        self.places: list[tuple[int, int]] = []
        self.held: list[list[np.ndarray]] = []

    def add(self, index: int, images: Sequence[Any]) -> None:
        """Note the pictures of a sample as the next item."""
        self.places.append((index, len(images)))
        if self.source is None:
            self.held.append([picture_bytes(image) for image in images])

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.places)

    def pictures(self) -> Pictures:
        """Return the pictures of all items."""
        if self.source is None:
            return HeldPictures.of_items(self.held)
        places = np.array(self.places, dtype=np.int64)
        return ReadPictures(self.source, places[:, 0].copy(), places[:, 1].copy())


def picture_bytes(image: Any) -> np.ndarray:
    """Return a picture's numbers, ``uint8 [height, width, 3]``."""
    pixels: np.ndarray = np.asarray(image.convert("RGB"), dtype=np.uint8)
    return pixels
