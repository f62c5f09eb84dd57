"""What a data set is to every other room: images, and the questions asked about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Turn:
    """One question about an image, and its answer.

    Attributes:
        question: plain text, without image marks or a chat template.
        answer: plain text; what the model has to say.
        source: the family or data set that the question comes from.
        marks: in a conversation, the places in ``question`` where images stand, in characters,
            ascending; the sample's images take them in order.
    """

    question: str
    answer: str
    source: str
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """Images, and what is said about them: independent questions, or one conversation.

    Attributes:
        key: names this sample for good: equal keys of one set hold equal content.
        image: RGB, any size; ``None`` for text only.
        turns: asked one by one, each with all images before it; or one after the other.
        more: further images.
        together: whether the turns are one conversation, in which each sees those before it and
            says where images stand.
        system: what stands before a conversation's first question, as the message of its system;
            empty for nothing.
    """

    key: str
    image: Image | None
    turns: tuple[Turn, ...]
    more: tuple[Image, ...] = ()
    together: bool = False
    system: str = ""

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in order."""
        return () if self.image is None else (self.image, *self.more)

    def upto(self, turns: int) -> Sample:
        """Return the conversation's first turns, with the images that they show."""
        kept = self.turns[:turns]
        shown = self.images[: sum(len(turn.marks) for turn in kept)]
        return replace(self, turns=kept, image=shown[0] if shown else None, more=shown[1:])

    def alone(self) -> tuple[Sample, ...]:
        """Return each turn as a conversation of its own; all images stand before it."""
        marks = (0,) * len(self.images)
        return tuple(
            replace(self, turns=(replace(turn, marks=marks),), together=True) for turn in self.turns
        )


@runtime_checkable
class SampleSet(Protocol):
    """A finite, ordered, repeatable set of samples.

    Reading an index twice gives equal samples, so nothing has to be held in memory.
    """

    @property
    def name(self) -> str:
        """Short name for people, such as ``digits/train``."""
        ...

    @property
    def identity(self) -> str:
        """Content hash: sets with equal identity hold equal samples in equal order."""
        ...

    @property
    def ring(self) -> np.ndarray:
        """``float64 [n]`` in [0, 1): where each sample stands on the circle.

        A data fraction f is an arc of length f, so that fractions with one start are nested.
        Samples made from the same material stand near each other.
        """
        ...

    @property
    def strata(self) -> np.ndarray:
        """``int64 [n]``: the stratum that each sample belongs to; fractions are taken in each."""
        ...

    def __len__(self) -> int:
        """Return the number of samples (images, not questions)."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            IndexError: outside [0, n).
        """
        ...

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in order."""
        ...


def without_images(samples: SampleSet | Sequence[Sample]) -> Sequence[Sample]:
    """Return the same questions without their images, for a model that reads none."""
    return _Blind(samples)


class _Blind(Sequence[Sample]):
    """Samples whose images are left out as they are read."""

    def __init__(self, samples: SampleSet | Sequence[Sample]) -> None:
        self.samples = samples
        for name in ("ring", "strata"):
            if (found := getattr(samples, name, None)) is not None:
                setattr(self, name, found)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
        turns = tuple(replace(turn, marks=()) for turn in sample.turns)
        return replace(sample, image=None, more=(), turns=turns)
