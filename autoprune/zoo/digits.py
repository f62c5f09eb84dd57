"""Real handwritten digits, and how a scene of them is drawn.

The digits are the 1,797 ones that scikit-learn bundles (the test part of the UCI data set
'Optical Recognition of Handwritten Digits', Alpaydin and Kaynak 1998, CC BY 4.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

CELL = 16
GRID = 3
CANVAS = CELL * GRID
SIZES = (12, 13, 14, 15, 16)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 48, 44),
    "green": (48, 190, 66),
    "blue": (62, 104, 250),
    "yellow": (240, 214, 52),
    "purple": (182, 70, 214),
    "white": (238, 238, 238),
}
PLACES = (
    "top-left",
    "top-center",
    "top-right",
    "middle-left",
    "center",
    "middle-right",
    "bottom-left",
    "bottom-center",
    "bottom-right",
)
_RGB = np.array(list(COLOURS.values()), dtype=np.float32)

# Digit images of each class in each split; what is left of a class goes to ``report``.
POOL_SIZES = {"train": 110, "calibration": 12, "search": 15, "confirm": 17}
_POOL_SEED = 20


class Item(NamedTuple):
    """One digit on the canvas.

    ``image`` is its row in scikit-learn's data; ``size`` indexes ``SIZES``; ``dx`` and ``dy``
    are in [0, 1), a share of the room that the cell leaves; ``light`` scales its colour.
    """

    cell: int
    digit: int
    colour: int
    image: int
    size: int
    dx: float
    dy: float
    light: float


@lru_cache(maxsize=1)
def source_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images ``uint8 [1797, 8, 8]`` (0..255) and their classes ``int [1797]``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


@lru_cache(maxsize=1)
def pools() -> dict[str, tuple[np.ndarray, ...]]:
    """Return for each split the digit images of each class, in the order of the ring.

    No digit image is in two splits. The order is seeded and the same on every machine.
    """
    _, classes = source_digits()
    rng = np.random.default_rng(_POOL_SEED)
    orders = [rng.permutation(np.flatnonzero(classes == digit)) for digit in range(10)]
    result: dict[str, tuple[np.ndarray, ...]] = {}
    start = 0
    for split, size in POOL_SIZES.items():
        result[split] = tuple(order[start : start + size] for order in orders)
        start += size
    result["report"] = tuple(order[start:] for order in orders)
    return result


@lru_cache(maxsize=1)
def glyphs() -> tuple[np.ndarray, ...]:
    """Return all digits at each of ``SIZES``: ``float32 [1797, size, size]``, 0 to 1."""
    images, _ = source_digits()
    return tuple(
        np.stack(
            [
                np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
                for image in images
            ]
        ).astype(np.float32)
        / 255
        for size in SIZES
    )


def draw(
    items: Sequence[Item], rng: np.random.Generator, shapes: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """Draw a scene over a tinted, noisy background.

    Args:
        items: what stands where.
        rng: the source of tint and noise.
        shapes: digits at each of ``SIZES`` as from :func:`glyphs`, which is the default.

    Returns:
        ``uint8 [48, 48, 3]``.
    """
    shapes = glyphs() if shapes is None else shapes
    tint = 18 + 52 * rng.random(3, dtype=np.float32)
    noise = np.frombuffer(rng.bytes(CANVAS * CANVAS * 3), dtype=np.uint8)
    canvas = noise.reshape(CANVAS, CANVAS, 3) * np.float32(0.14) + tint
    for item in items:
        shape = shapes[item.size][item.image]
        side = len(shape)
        room = CELL - side + 1
        row, column = divmod(item.cell, GRID)
        top = row * CELL + int(item.dy * room)
        left = column * CELL + int(item.dx * room)
        view = canvas[top : top + side, left : left + side]
        view += (_RGB[item.colour] * np.float32(item.light) - view) * shape[:, :, None]
    return canvas.astype(np.uint8)
