"""Which digits stand where: scenes by split and index.

Sample i of a split stands at position ``ring_position(i)`` of a circle, and takes its digit
images from a window of one image a class at that position. So an arc of length f holds about
f of the samples *and* uses about f of the digit images, each about equally often.
"""

from __future__ import annotations

import numpy as np

from autoprune.zoo.dice import Dice
from autoprune.zoo.digits import COLOURS, SIZES, Item, pools

# Golden-ratio steps spread any number of first samples evenly over the circle.
_GOLDEN = 0.6180339887498949

_STREAMS = {"train": 1, "calibration": 2, "search": 3, "confirm": 4, "report": 5}


def ring_position(index: int | np.ndarray) -> np.ndarray:
    """Return where the samples of these indices stand on the circle: float64 in [0, 1)."""
    return np.mod((np.asarray(index, dtype=np.float64) + 0.5) * _GOLDEN, 1.0)


def dice_of(split: str, index: int) -> Dice:
    """Return the stream that everything random about one sample comes from."""
    return Dice(_STREAMS[split], index)


def draw_scene(split: str, index: int, dice: Dice, digits: tuple[int, int] = (3, 6)) -> list[Item]:
    """Draw a scene of different digits in different cells, ordered by cell.

    Args:
        split: whose digit images to use.
        index: sets the place on the ring, and so which digit images.
        dice: the stream of this sample.
        digits: fewest and most digits on the canvas.
    """
    fewest, most = digits
    number = fewest + dice.below(most - fewest + 1)
    cells = sorted(dice.some(range(9), number))
    classes = dice.some(range(10), number)
    position = float(ring_position(index))
    pool = pools()[split]
    items = []
    for cell, digit in zip(cells, classes, strict=True):
        images = pool[digit]
        slot = int(position * len(images) + dice.uniform()) % len(images)
        items.append(
            Item(
                cell=cell,
                digit=digit,
                colour=dice.below(len(COLOURS)),
                image=int(images[slot]),
                size=dice.below(len(SIZES)),
                dx=dice.uniform(),
                dy=dice.uniform(),
                light=0.86 + 0.14 * dice.uniform(),
            )
        )
    return items
