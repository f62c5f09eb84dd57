"""A user's data as splits: what recovery trains on, and what is held out for questions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data.samples import Sample
from autoprune.data.sources.mix import assigned, chosen_rows, families, scattered
from autoprune.data.sources.scan import Source, open_sources
from autoprune.data.sources.spec import parse_columns, parse_source
from autoprune.data.splits import ALL, ASKED, SPLIT_NAMES, DataSpec
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash

TALKING = ("train", "calibration")
"""Splits whose samples are whole conversations; of the others the first question is asked."""


class UserSplits:
    """A user's data: a :class:`~autoprune.data.splits.Splits`.

    Attributes:
        sources: where rows come from.
        of: ``int64 [n]``: the source of each row of the mix.
        rows: ``int64 [n]``: its number there.
    """

    def __init__(self, data: DataSpec, sources: Sequence[Source]) -> None:
        self.data = data
        self.sources = list(sources)
        self.of, self.rows = chosen_rows(self.sources, data.sources)
        self.family = families(self.sources, self.of, self.rows)
        called = ", ".join(source.ref for source in sources)
        self.places = assigned(self.of, self.family, called)
        self._identity = identity_of(data, self.sources)

    @property
    def name(self) -> str:
        """Names of the sources."""
        return "+".join(source.name for source in self.sources)

    @property
    def identity(self) -> str:
        """Content hash of all splits."""
        return self._identity

    def size(self, split: str) -> int:
        """Return how many samples a split has."""
        return len(self._places(split))

    def _places(self, split: str) -> np.ndarray:
        """Return the places of a split's rows in the mix, in order."""
        known = (*SPLIT_NAMES, ALL)
        if split not in known:
            raise AutoPruneError(f"unknown split {split!r}{did_you_mean(split, known)}")
        if split == ALL:
            return np.sort(np.concatenate([self.places[name] for name in ASKED]))
        return self.places[split]

    def open(self, split: str, size: int | None = None) -> UserSet:
        """Return the first samples of a split, in an order drawn by content.

        Every beginning of that order is a fair sample of the split.
        """
        places = self._places(split)
        size = len(places) if size is None else min(size, len(places))
        if size < 1:
            raise AutoPruneError(f"a split of {size} samples is empty: ask for at least 1")
        texts = np.empty(len(places), dtype=np.int64)
        for place, (source, row) in enumerate(
            zip(self.of[places].tolist(), self.rows[places].tolist(), strict=True)
        ):
            texts[place] = self.sources[source].index.texts[row]
        order = np.lexsort((places, scattered(texts)))
        chosen = np.sort(places[order[:size]])
        return UserSet(
            name=f"{self.name}/{split}",
            identity=content_hash(self.identity, split, chosen),
            sources=self.sources,
            of=self.of[chosen],
            rows=self.rows[chosen],
            family=self.family[chosen],
            talking=split in TALKING,
        )


class UserSet:
    """Rows of a user's data; a :class:`~autoprune.data.samples.SampleSet`.

    Only numbers are held. Images are opened when a sample is read, and let go with it.

    Attributes:
        rereadable: says that a sample may be read at any time, in any process.
    """

    rereadable = True

    def __init__(
        self,
        name: str,
        identity: str,
        sources: Sequence[Source],
        of: np.ndarray,
        rows: np.ndarray,
        family: np.ndarray,
        talking: bool,
    ) -> None:
        self._name, self._identity = name, identity
        self.sources, self.of, self.rows = sources, of, rows
        self.family, self.talking = family, talking

    @property
    def name(self) -> str:
        """Short name, such as ``my_data/train``."""
        return self._name

    @property
    def identity(self) -> str:
        """Content hash."""
        return self._identity

    @property
    def ring(self) -> np.ndarray:
        """Position on the circle, ``float64 [n]``: that of the image, by its content."""
        return scattered(self.family)

    @property
    def place(self) -> list[str]:
        """Where the rows and images lie: what was read of them may be read again there."""
        return [f"{source.ref} {source.folder}" for source in self.sources]

    def without(self, images: Collection[int]) -> UserSet:
        """Return the rows that show none of some images, by their numbers (``Index.images``).

        Raises:
            AutoPruneError: no row is left.
        """
        held = [np.isin(source.index.images, list(images)) for source in self.sources]
        rows = zip(self.of.tolist(), self.rows.tolist(), strict=True)
        kept = []
        for place, (source, row) in enumerate(rows):
            begin, end = self.sources[source].index.offsets[row : row + 2]
            if not held[source][begin:end].any():
                kept.append(place)
        if len(kept) == len(self):
            return self
        if not kept:
            raise AutoPruneError(
                f"all samples of {self.name} show images that the tasks ask about: recover on "
                "others, or name other --tasks"
            )
        return UserSet(
            name=self.name,
            identity=content_hash(self.identity, "without", np.array(kept)),
            sources=self.sources,
            of=self.of[kept],
            rows=self.rows[kept],
            family=self.family[kept],
            talking=self.talking,
        )

    @property
    def groups(self) -> list[str]:
        """What each sample is about: equal where samples share an image."""
        return [f"{number:x}" for number in self.family.tolist()]

    @property
    def strata(self) -> np.ndarray:
        """The source of each sample."""
        return self.of

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample = self.sources[int(self.of[index])].sample(int(self.rows[index]))
        return sample if self.talking else first_question(sample)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def first_question(sample: Sample) -> Sample:
    """Return a conversation's first question alone, with its images before it.

    Questions of tasks have no system message of their own: it stands before the question, where
    templates without such a role put it.
    """
    first = sample.upto(1)
    asked = f"{sample.system}\n\n{first.turns[0].question}".lstrip()
    turn = replace(first.turns[0], question=asked, marks=())
    return replace(first, turns=(turn,), together=False, system="")


def identity_of(data: DataSpec, sources: Sequence[Source]) -> str:
    """Return a hash of what is read of the sources, and of how they are mixed."""
    held = [source.index.content for source in sources]
    return content_hash(held, [spec.weight for spec in data.sources])


def read_data(
    refs: Sequence[str],
    images: Path | str | None = None,
    columns: Sequence[str] = (),
    max_length: int | None = None,
) -> DataSpec:
    """Look a user's data through, and return it as a value that says what it holds.

    Args:
        refs: ``PATH`` or ``PATH=WEIGHT``, or names of data sets.
        images: folder that relative image paths start from; by default, that of the file.
        columns: ``NAME=COLUMN``, see ``COLUMNS``.
        max_length: most tokens of a sample.

    Raises:
        AutoPruneError: the first thing that is wrong with it.
    """
    data = DataSpec(
        sources=tuple(parse_source(ref) for ref in refs),
        images=None if images is None else str(images),
        columns=parse_columns(columns),
        max_length=max_length,
    )
    splits = _looked_through(replace(data, max_length=None), _stamps(data))
    return replace(data, identity=splits.identity)


SIZED = 64
"""Samples whose images say how large they usually are."""


@lru_cache(maxsize=8)
def usual_image(data: DataSpec) -> tuple[int, int] | None:
    """Return height and width of the data's middle image by area; None where there is none.

    Raises:
        AutoPruneError: see :func:`open_data`; and for an image that does not decode.
    """
    splits = open_data(data)
    samples = splits.open("train", SIZED) if splits.size("train") else ()
    sizes = sorted(
        (image.height * image.width, image.height, image.width)
        for sample in samples
        for image in sample.images
    )
    return sizes[len(sizes) // 2][1:] if sizes else None


def open_data(data: DataSpec) -> UserSplits:
    """Return the splits of a user's data.

    Raises:
        AutoPruneError: it is not there any more, or holds something else by now.
    """
    bare = replace(data, identity="", max_length=None)
    splits = _looked_through(bare, _stamps(data))
    if data.identity not in ("", splits.identity):
        refs = ", ".join(source.ref for source in data.sources)
        raise AutoPruneError(
            f"{refs} holds something else than when this began: put the data back, or start anew "
            "under another --name"
        )
    return splits


@lru_cache(maxsize=4)
def _looked_through(data: DataSpec, stamps: tuple[Any, ...]) -> UserSplits:
    """Look the sources through, once a process unless their files are written again."""
    sources = open_sources(data)
    for source in sources:
        source.look_through()
    return UserSplits(data, sources)


def _stamps(data: DataSpec) -> tuple[Any, ...]:
    """Return what tells that a file was written since: of this process alone, never an identity."""
    stamps = []
    for source in data.sources:
        path = Path(source.ref)
        if path.exists():
            found = path.stat()
            stamps.append((found.st_size, found.st_mtime_ns))
    return tuple(stamps)
