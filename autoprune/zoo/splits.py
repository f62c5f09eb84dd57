"""The five splits, disjoint by digit image, made on demand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from autoprune.data.samples import Sample, Turn
from autoprune.data.sources.user import open_data
from autoprune.data.splits import ALL, DataSpec, Splits
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash
from autoprune.zoo.digits import draw, pools, source_digits
from autoprune.zoo.questions import ask
from autoprune.zoo.scenes import dice_of, draw_scene, ring_position

# Images of each split; each carries eight questions. The 10,000 of ``train`` are 100 % of the
# data that recovery may use.
SPLITS: dict[str, int] = {
    "train": 10_000,
    "calibration": 256,
    "search": 384,
    "confirm": 512,
    "report": 1024,
}


def make_sample(split: str, index: int) -> Sample:
    """Make the sample that ``index`` names: the same one always, whatever was made before."""
    dice = dice_of(split, index)
    scene = draw_scene(split, index, dice)
    turns = tuple(Turn(*asked) for asked in ask(scene, dice))
    image = Image.fromarray(draw(scene, dice.generator))
    return Sample(key=f"{split}-{index}", image=image, turns=turns)


class DigitSet:
    """The first ``size`` samples of a split; a :class:`~autoprune.data.samples.SampleSet`."""

    def __init__(self, split: str, size: int) -> None:
        self.split = split
        self.size = size

    def __repr__(self) -> str:
        return f"DigitSet({self.split!r}, {self.size})"

    @property
    def name(self) -> str:
        """Short name, such as ``digits/train``."""
        return f"digits/{self.split}"

    @property
    def identity(self) -> str:
        """Content hash, over the source digits and a probe of what is made of them."""
        return content_hash(self.split, self.size, _probe(self.split))

    @property
    def ring(self) -> np.ndarray:
        """Position on the circle, ``float64 [n]``; neighbours share digit images."""
        return ring_position(np.arange(self.size))

    @property
    def strata(self) -> np.ndarray:
        """All zero: every image carries questions of most families."""
        return np.zeros(self.size, dtype=np.int64)

    def digit_images(self, index: int) -> list[int]:
        """Return the rows of scikit-learn's digits that sample ``index`` shows."""
        return [item.image for item in draw_scene(self.split, index, dice_of(self.split, index))]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        index = int(index)
        if index < 0:
            index += self.size
        if not 0 <= index < self.size:
            raise IndexError(f"sample {index} of {self.size}")
        return make_sample(self.split, index)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(self.size):
            yield make_sample(self.split, index)


@lru_cache(maxsize=8)
def _probe(split: str) -> str:
    samples = [make_sample(split, index) for index in range(16)]
    pixels = np.stack([np.asarray(sample.image) for sample in samples])
    turns = [[(t.question, t.answer, t.source) for t in sample.turns] for sample in samples]
    return content_hash(source_digits()[0], list(pools()[split]), pixels, turns)


def load_split(split: str, size: int | None = None) -> DigitSet:
    """Return the first ``size`` samples of a split; they are made when they are read.

    Args:
        split: one of ``SPLITS``.
        size: number of images, any; by default that of ``SPLITS``.

    Raises:
        AutoPruneError: for an unknown split or a size below one.
    """
    if split not in SPLITS:
        raise AutoPruneError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    size = SPLITS[split] if size is None else size
    if size < 1:
        raise AutoPruneError(f"a split of {size} images is empty: ask for at least 1")
    return DigitSet(split, size)


class DigitSplits:
    """The digits as one :class:`~autoprune.data.splits.Splits`; any number of samples is made."""

    name = "digits"

    @property
    def identity(self) -> str:
        """Content hash of all splits."""
        return content_hash([self.open(split).identity for split in SPLITS])

    def size(self, split: str) -> int:
        """Return how many samples of a split are used unless asked otherwise."""
        return len(self.open(split))

    def open(self, split: str, size: int | None = None) -> DigitSet:
        """Return the first ``size`` samples of a split, see :func:`load_split`."""
        return load_split("confirm" if split == ALL else split, size)


def splits_of(data: DataSpec | None) -> Splits:
    """Return the splits of a user's data; None means the digits.

    Raises:
        AutoPruneError: for data that cannot be read.
    """
    if data is None:
        return DigitSplits()
    return open_data(data)
