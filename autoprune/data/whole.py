"""Rows for a model that is run by its own forward pass: exactly what its processor makes.

One question a row. Every tensor that the processor makes of an image is kept by its name, and so
is what it says of every token, such as which of them belong to an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autoprune.data.chat import TurnTokens
from autoprune.data.images import (
    OF_TOKENS,
    Images,
    Kept,
    MadeAgain,
    image_once,
    only_image,
    picture_bytes,
)
from autoprune.data.packing import IGNORED
from autoprune.data.ragged import Ragged
from autoprune.data.samples import Sample
from autoprune.errors import AutoPruneError


class WholeBuilder:
    """Collects rows while encoding.

    Args:
        processor: of the model.
        stacked: names of tensors that hold the tiles of an image on an axis of their own.
        pixel_dtype: that floating tensors are kept in.
        keep: bytes of images' tensors that are kept at most; beyond, the pictures are. None keeps
            any number.
    """

    def __init__(
        self,
        processor: Any,
        stacked: tuple[str, ...],
        pixel_dtype: type[np.floating],
        keep: int | None,
    ) -> None:
        self.processor = processor
        self.stacked = stacked
        self.pixel_dtype = pixel_dtype
        self.input_ids: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.types: list[dict[str, np.ndarray]] = []
        self.keep = keep
        self.tensors: dict[str, list[np.ndarray]] | None = {}
        self.pictures: list[np.ndarray] = []
        self.held = 0
        self.samples: list[int] = []
        self.image_rows: list[tuple[int, int]] = []
        self.images = 0

    def add(self, index: int, sample: Sample, turns: list[TurnTokens]) -> None:
        """Append the questions of a sample; its image's tensors are kept once."""
        shown = (self.images, self.images + (sample.image is not None))
        for number, (turn, made) in enumerate(
            zip(turns, self._process(sample, turns), strict=True)
        ):
            ids = made["input_ids"][0]
            start = len(ids) - (turn.length - turn.answer_start)
            answer = np.asarray(turn.ids[turn.answer_start :], dtype=np.int32)
            there = min(len(ids) - start, len(answer))  # an end token may have been added to it
            if start < 1 or not np.array_equal(ids[start : start + there], answer[:there]):
                raise AutoPruneError(
                    f"{type(self.processor).__name__} tokenises an answer otherwise behind an "
                    "image; this processor is not supported"
                )
            row = np.concatenate([ids[:start], answer]).astype(np.int32)
            self.input_ids.append(row)
            hidden = np.full(start, IGNORED, dtype=np.int32)
            self.labels.append(np.concatenate([hidden, answer]))
            self._add_types(made, len(ids), len(row))
            if sample.image is not None and number == 0:
                self._add_image(sample.image, made)
            self.samples.append(index)
            self.image_rows.append(shown)
        self.images = shown[1]

    def token_arrays(self) -> dict[str, Any]:
        """Return the flat arrays over tokens, their offsets, and what is said of each token."""
        lengths = [len(row) for row in self.input_ids]
        answers = [int((row != IGNORED).sum()) for row in self.labels]
        names = sorted({name for row in self.types for name in row})
        types = {
            name: np.concatenate(
                [
                    row.get(name, np.zeros(length, dtype=np.int32))
                    for row, length in zip(self.types, lengths, strict=True)
                ]
            )
            for name in names
        }
        return {
            "input_ids": np.concatenate(self.input_ids),
            "labels": np.concatenate(self.labels),
            "segments": np.ones(sum(lengths), dtype=np.int32),
            "positions": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            "offsets": np.concatenate([[0], np.cumsum(lengths)]),
            "answer_offsets": np.concatenate([[0], np.cumsum(answers)]),
            "types": types,
            "shown": self._images(),
        }

    def _process(self, sample: Sample, turns: list[TurnTokens]) -> Iterator[dict[str, np.ndarray]]:
        """Yield what the processor makes of each question and its answer, one row."""
        images = {} if sample.image is None else {"images": [[sample.image]]}
        with image_once(self.processor):
            for turn in turns:
                options = {**turn.options(self.processor), **images}
                made = self.processor(text=[turn.text], return_tensors="pt", **options)
                yield {n: value.numpy() for n, value in made.items() if hasattr(value, "numpy")}

    def _add_types(self, made: dict[str, np.ndarray], length: int, kept: int) -> None:
        """Keep what is said of tokens; an end token that was added is like the one before it."""
        place = np.minimum(np.arange(kept), length - 1)
        self.types.append(
            {
                name: value[0][place].astype(np.int32)
                for name, value in made.items()
                if name in OF_TOKENS
            }
        )

    def _add_image(self, image: Any, made: dict[str, np.ndarray]) -> None:
        self.pictures.append(picture_bytes(image))
        if self.tensors is None:
            return
        for name, item in only_image(made, self.stacked).items():
            if np.issubdtype(item.dtype, np.floating):
                item = item.astype(self.pixel_dtype)
            elif name.endswith("mask"):
                item = item.astype(bool)  # an eighth of what processors take for it
            self.tensors.setdefault(name, []).append(item)
            self.held += item.nbytes
        if self.keep is not None and self.held > self.keep:
            self.tensors = None

    def _images(self) -> Images | None:
        if not self.pictures:
            return None
        if self.tensors is not None:
            return Kept({name: Ragged.of(items) for name, items in self.tensors.items()})
        sizes = np.array([picture.shape[:2] for picture in self.pictures], dtype=np.int32)
        pixels = Ragged.of([picture.reshape(-1) for picture in self.pictures])
        return MadeAgain(self.processor, pixels, sizes)
