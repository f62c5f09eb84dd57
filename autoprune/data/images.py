"""Images of a set that its model reads by itself: as its processor makes them, kept or made again.

A processor may turn a small picture into many large tiles (Idefics3: 17 of 364 pixels, 13 MB).
Where a set's tensors would be too much to keep, the pictures are kept instead, and each batch goes
through the processor again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from autoprune.data.chat import call_options, prompt_of
from autoprune.data.pictures import Pictures
from autoprune.data.ragged import Ragged, ranges
from autoprune.identity import content_hash

ELSEWHERE = frozenset({"input_ids", "attention_mask", "labels"})
"""What a processor returns and no forward pass takes from here."""

OF_TOKENS = frozenset({"token_type_ids", "mm_token_type_ids"})
"""What it says of each token."""


class Images(Protocol):
    """The images of an encoded set, in the order of its ``image_rows``: an item is what one sample
    shows, as the processor makes it jointly.
    """

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

    def batch(self, chosen: np.ndarray, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return what a forward pass takes of chosen items, by name.

        Floats come as ``float32`` and masks as ``int64``.

        Args:
            chosen: ``int64 [items]``.
            stacked: names whose images' tiles lie on an axis of their own, filled up with 0.
        """
        ...


@dataclass(frozen=True, eq=False)
class Kept:
    """Every tensor that the processor made.

    Attributes:
        tensors: by name, one item for what a sample shows; of stacked ones, one an image.
        offsets: ``int64 [items + 1]`` into the images of stacked ones; None: one an item.
    """

    tensors: Mapping[str, Ragged]
    offsets: np.ndarray | None = None

    @staticmethod
    def of(items: Sequence[Mapping[str, Sequence[np.ndarray]]], stacked: tuple[str, ...]) -> Kept:
        """Keep what :func:`only_image` returned of each item."""
        names = dict.fromkeys(name for item in items for name in item)
        tensors = {n: Ragged.of([part for item in items for part in item[n]]) for n in names}
        parts = [max(len(item[n]) for n in (*stacked, *names) if n in item) for item in items]
        alone = all(count == 1 for count in parts)
        return Kept(tensors, None if alone else np.cumsum([0, *parts]))

    @property
    def identity(self) -> str:
        """Content hash."""
        parts = [] if self.offsets is None else [self.offsets]
        return content_hash(self.tensors, *parts)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(ragged.values.nbytes for ragged in self.tensors.values())

    def __len__(self) -> int:
        """Return the number of items."""
        if self.offsets is not None:
            return len(self.offsets) - 1
        return len(next(iter(self.tensors.values()), ()))

    def batch(self, chosen: np.ndarray, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
        """See :class:`Images`."""
        each = chosen
        if self.offsets is not None:
            starts = self.offsets[chosen]
            each = ranges(starts, self.offsets[chosen + 1] - starts)
        return {
            name: _single(r.stacked(each) if name in stacked else r.joined(chosen))
            for name, r in self.tensors.items()
        }


@dataclass(frozen=True, eq=False)
class MadeAgain:
    """The pictures themselves, processed whenever they are read.

    Attributes:
        processor: of the model.
        pictures: by item.
    """

    processor: Any
    pictures: Pictures

    @property
    def identity(self) -> str:
        """Content hash; what the processor makes of the pictures shows in the tokens."""
        return self.pictures.identity

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.pictures.nbytes

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.pictures)

    def batch(self, chosen: np.ndarray, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
        """See :class:`Images`."""
        made = [image_tensors(self.processor, self.pictures.of(int(i)), stacked) for i in chosen]
        return Kept.of(made, stacked).batch(np.arange(len(made)), stacked)


@dataclass(frozen=True, eq=False)
class LazyTiles:
    """Pixels of images of one size, as an array that is made where it is read.

    Stands in for ``float [tiles, 3, height, width]``.

    Attributes:
        processor: of the model.
        pictures: by item.
        offsets: ``int64 [items + 1]`` into the tiles.
        dtype: of the numbers.
    """

    processor: Any
    pictures: Pictures
    offsets: np.ndarray
    dtype: np.dtype

    @property
    def identity(self) -> str:
        """Content hash; what the processor makes of the pictures shows in the tokens."""
        return content_hash(self.pictures.identity, self.offsets, str(self.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.pictures.nbytes

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(self.offsets[-1])

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """Return chosen tiles, ``[chosen, 3, height, width]``: a slice or an index array."""
        tiles = np.arange(len(self))[chosen] if isinstance(chosen, slice) else np.asarray(chosen)
        items = np.searchsorted(self.offsets, tiles, side="right") - 1
        made = {
            item: image_tensors(self.processor, self.pictures.of(item), ())["pixel_values"][0]
            for item in dict.fromkeys(items.tolist())
        }
        inner = tiles - self.offsets[items]
        found = [made[item][tile] for item, tile in zip(items.tolist(), inner, strict=True)]
        return np.stack(found).astype(self.dtype)


def image_tensors(
    processor: Any, images: Sequence[Any], stacked: tuple[str, ...]
) -> dict[str, list[np.ndarray]]:
    """Return what a processor makes of a sample's images, by name, as an item of :class:`Kept`."""
    text = prompt_of(processor, "", len(images))
    options = call_options(processor, text)
    return only_image(
        processor(text=[text], images=[list(images)], return_tensors="pt", **options), stacked
    )


def only_image(made: Mapping[str, Any], stacked: tuple[str, ...]) -> dict[str, list[np.ndarray]]:
    """Return of what a processor made of one row with images what belongs to the images.

    Of stacked tensors one array an image where the processor keeps images apart, else one.
    """
    found = {}
    for name, value in made.items():
        if name not in ELSEWHERE | OF_TOKENS and hasattr(value, "shape"):
            array = np.asarray(value)
            found[name] = list(array) if name in stacked else [array]
    return found


@contextmanager
def image_once(processor: Any) -> Iterator[None]:
    """Within, let ``processor`` prepare the image that it meets first, and take it for all others.

    For many questions about one image: preparing it takes longer than all the rest.
    """
    inner = getattr(processor, "image_processor", None)
    if inner is None:
        yield
        return
    processor.image_processor = _Once(inner)
    try:
        yield
    finally:
        processor.image_processor = inner


class _Once:
    """Stands in for an image processor and remembers what it made."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.made: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.made is None:
            self.made = self.inner(*args, **kwargs)
        return copy.copy(self.made)  # its reader takes entries out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _single(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.int64)
    floats = np.issubdtype(values.dtype, np.floating)
    return values.astype(np.float32) if floats else values
