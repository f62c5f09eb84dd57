"""Rows for a model that is run by its own forward pass: exactly what its processor makes.

One question or one conversation a row. Every tensor that the processor makes of an image is kept
by its name, and so is what it says of every token, such as which of them belong to an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.data.chat import TurnTokens
from autoprune.data.conversation import ConversationRow
from autoprune.data.images import (
    OF_TOKENS,
    Images,
    Kept,
    MadeAgain,
    image_once,
    only_image,
)
from autoprune.data.packing import IGNORED
from autoprune.data.pictures import PictureKeeper
from autoprune.data.samples import Sample
from autoprune.errors import AutoPruneError


class WholeBuilder:
    """Collects rows while encoding.

    Args:
        processor: of the model.
        stacked: names of tensors that hold the tiles of an image on an axis of their own.
        pixel_dtype: that floating tensors are kept in.
        keep: bytes of images' tensors that are kept at most; beyond, they are made again of the
            pictures. None keeps any number.
        pictures: where these come from.
    """

    def __init__(
        self,
        processor: Any,
        stacked: tuple[str, ...],
        pixel_dtype: type[np.floating],
        keep: int | None,
        pictures: PictureKeeper,
    ) -> None:
        self.processor = processor
        self.stacked = stacked
        self.pixel_dtype = pixel_dtype
        self.input_ids: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.types: list[dict[str, np.ndarray]] = []
        self.keep = keep
        self.items: list[dict[str, list[np.ndarray]]] | None = []
        self.pictures = pictures
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
            # An end token that was added is like the one before it.
            self._add_types(made, np.minimum(np.arange(len(row)), len(ids) - 1))
            if sample.image is not None and number == 0:
                self._add_images(index, sample.images, made)
            self.samples.append(index)
            self.image_rows.append(shown)
        self.images = shown[1]

    def add_conversation(self, index: int, sample: Sample, row: ConversationRow) -> None:
        """Append a conversation of which ``row`` was made."""
        shown = (self.images, self.images + (sample.image is not None))
        self.input_ids.append(row.ids)
        self.labels.append(row.labels)
        self._add_types(row.made, row.origin)
        if sample.image is not None:
            self._add_images(index, sample.images, row.made)
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
        images = {} if sample.image is None else {"images": [list(sample.images)]}
        with image_once(self.processor):
            for turn in turns:
                options = {**turn.options(self.processor), **images}
                made = self.processor(text=[turn.text], return_tensors="pt", **options)
                yield {n: value.numpy() for n, value in made.items() if hasattr(value, "numpy")}

    def _add_types(self, made: Mapping[str, np.ndarray], origin: np.ndarray) -> None:
        """Keep what is said of the tokens at ``origin``."""
        self.types.append(
            {
                name: value[0][origin].astype(np.int32)
                for name, value in made.items()
                if name in OF_TOKENS
            }
        )

    def _add_images(self, index: int, images: Sequence[Any], made: Mapping[str, Any]) -> None:
        self.pictures.add(index, images)
        if self.items is None:
            return
        item: dict[str, list[np.ndarray]] = {}
        for name, parts in only_image(made, self.stacked).items():
            for part in parts:
                kept = part
                if np.issubdtype(part.dtype, np.floating):
                    kept = part.astype(self.pixel_dtype)
                elif name.endswith("mask"):
                    kept = part.astype(bool)  # an eighth of what processors take for it
                item.setdefault(name, []).append(kept)
                self.held += kept.nbytes
        self.items.append(item)
        if self.keep is not None and self.held > self.keep:
            self.items = None

    def _images(self) -> Images | None:
        if not len(self.pictures):
            return None
        if self.items is not None:
            return Kept.of(self.items, self.stacked)
        return MadeAgain(self.processor, self.pictures.pictures())
