"""Images of a set that its model reads by itself: as its processor makes them, kept or made again.

A processor may turn a small picture into many large tiles (Idefics3: 17 of 364 pixels, 13 MB).
Where a set's tensors would be too much to keep, the pictures are kept instead, and each batch goes
through the processor again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from autoprune.data.chat import call_options, prompt_of
from autoprune.data.ragged import Ragged
from autoprune.identity import content_hash

ELSEWHERE = frozenset({"input_ids", "attention_mask", "labels"})
"""What a processor returns and no forward pass takes from here."""

OF_TOKENS = frozenset({"token_type_ids", "mm_token_type_ids"})
"""What it says of each token."""


class Images(Protocol):
    """The images of an encoded set, in the order of its ``image_rows``."""

    @property
    def identity(self) -> str:
        """Content hash."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def batch(self, chosen: np.ndarray, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return what a forward pass takes of chosen images, by name.

        Floats come as ``float32`` and masks as ``int64``.

        Args:
            chosen: ``int64 [images]``.
            stacked: names whose images' tiles lie on an axis of their own, filled up with 0.
        """
        ...


@dataclass(frozen=True, eq=False)
class Kept:
    """Every tensor that the processor made.

    Attributes:
        tensors: by name, one item an image.
    """

    tensors: Mapping[str, Ragged]

    @property
    def identity(self) -> str:
        """Content hash."""
        return content_hash(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(ragged.values.nbytes for ragged in self.tensors.values())

    def __len__(self) -> int:
        """Return the number of images."""
        return len(next(iter(self.tensors.values()), ()))

    def batch(self, chosen: np.ndarray, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
        """See :class:`Images`."""
        return {
            name: _single(r.stacked(chosen) if name in stacked else r.joined(chosen))
            for name, r in self.tensors.items()
        }


@dataclass(frozen=True, eq=False)
class MadeAgain:
    """The pictures themselves, processed whenever they are read.

    Attributes:
        processor: of the model.
        pixels: ``uint8``, of each picture all its numbers in one row.
        sizes: ``int32 [images, 2]``: height and width.
    """

    processor: Any
    pixels: Ragged
    sizes: np.ndarray

    @property
    def identity(self) -> str:
        """Content hash; what the processor makes of the pictures shows in the tokens."""
        return content_hash(self.pixels, self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.pixels.values.nbytes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)

    def batch(self, chosen: np.ndarray, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
        """See :class:`Images`."""
        made = [image_tensors(self.processor, self._picture(int(i)), stacked) for i in chosen]
        tensors = {name: Ragged.of([one[name] for one in made]) for name in made[0]}
        return Kept(tensors).batch(np.arange(len(made)), stacked)

    def _picture(self, index: int) -> Any:
        from PIL import Image

        flat = self.pixels.joined(np.array([index]))
        return Image.fromarray(flat.reshape(*self.sizes[index].tolist(), 3))


def image_tensors(processor: Any, image: Any, stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return what a processor makes of one image, by name, as items of :class:`Kept`."""
    text = prompt_of(processor, "", 1)
    options = call_options(processor, text)
    return only_image(
        processor(text=[text], images=[[image]], return_tensors="pt", **options), stacked
    )


def only_image(made: Mapping[str, Any], stacked: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return of what a processor made of one row with an image what belongs to the image."""
    found = {}
    for name, value in made.items():
        if name not in ELSEWHERE | OF_TOKENS and hasattr(value, "shape"):
            array = np.asarray(value)
            found[name] = array[0] if name in stacked else array
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


def picture_bytes(image: Any) -> np.ndarray:
    """Return a picture's numbers, ``uint8 [height, width, 3]``."""
    pixels: np.ndarray = np.asarray(image.convert("RGB"), dtype=np.uint8)
    return pixels


def _single(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.int64)
    floats = np.issubdtype(values.dtype, np.floating)
    return values.astype(np.float32) if floats else values
