"""Tokenised sets and batches of their rows: plain arrays, and how they come together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from autoprune.data.images import Images, LazyTiles
from autoprune.data.packing import IGNORED
from autoprune.data.ragged import ranges
from autoprune.errors import AutoPruneError
from autoprune.identity import content_hash


@dataclass(frozen=True)
class EncodedSet:
    """A tokenised set: flat arrays with offsets, which travel between processes uncopied.

    A row is a sample (packed) or a question (plain); a conversation always is one row.

    Attributes:
        input_ids: ``int32 [tokens]``, image tokens expanded.
        labels: ``int32 [tokens]``: the token itself on answers and their end tokens, else -100.
        segments: ``int32 [tokens]``: 0 for the shared prefix, k for the row's k-th question.
        positions: ``int32 [tokens]``, starting again behind the prefix for each question.
        offsets: ``int64 [rows + 1]`` into the token arrays.
        answer_offsets: ``int64 [rows + 1]`` into the answer tokens of the whole set.
        samples: ``int64 [rows]``: the sample that a row came from.
        image_rows: ``int64 [rows, 2]``: start and stop of the row's images in ``pixel_values``,
            an image's tiles counted one by one; in the whole layout, in ``shown``, where all
            images of a sample are one item.
        pixel_values: ``[images, 3, height, width]``, float16 unless asked otherwise; its rounding
            is at most a fourteenth of one step of an 8-bit pixel. ``None`` without images, and in
            the whole layout. Made where it is read, if it would be too much to keep.
        ring: ``float64 [rows]``, see ``SampleSet.ring``.
        strata: ``int64 [rows]``, see ``SampleSet.strata``.
        packed: which layout this is.
        image_token_id: the id of image tokens; -1 if the processor has none.
        pad_token_id: fills rows up; never seen by any token.
        whole: whether rows are read by the model's own forward pass.
        shown: of the whole layout, the images with every tensor that the processor makes of them;
            ``None`` without images.
        stacked: names of these tensors whose images' tiles lie on an axis of their own in a batch.
        types: of the whole layout, ``int32 [tokens]`` by name: what the processor says of each
            token.
        cut: conversations that were too long and lost their last turns.
        left_out: conversations of which not even the first turn fits.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    answer_offsets: np.ndarray
    samples: np.ndarray
    image_rows: np.ndarray
    pixel_values: np.ndarray | LazyTiles | None
    ring: np.ndarray
    strata: np.ndarray
    packed: bool
    image_token_id: int
    pad_token_id: int
    whole: bool = False
    shown: Images | None = None
    stacked: tuple[str, ...] = ()
    types: Mapping[str, np.ndarray] = field(default_factory=dict)
    cut: int = 0
    left_out: int = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    @property
    def num_answer_tokens(self) -> int:
        """Answer tokens of the whole set."""
        return int(self.answer_offsets[-1])

    @cached_property
    def identity(self) -> str:
        """Content hash over every array."""
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        shown = values.pop("shown")
        if isinstance(self.pixel_values, LazyTiles):
            values["pixel_values"] = self.pixel_values.identity
        return content_hash([*values.values(), None if shown is None else shown.identity])

    @property
    def has_images(self) -> bool:
        """Whether any row has an image, with or without its pixels."""
        return bool(np.diff(self.image_rows, axis=1).any())

    @property
    def image_tokens(self) -> float:
        """Tokens that an image becomes, on average; 0 without images."""
        last = self.image_rows.max(initial=0)
        rows = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        shown = np.bincount(rows[self.input_ids == self.image_token_id], minlength=len(self))
        with_image = np.diff(self.image_rows, axis=1)[:, 0] > 0
        return float(shown[with_image].mean()) if last and with_image.any() else 0.0

    @property
    def has_pixels(self) -> bool:
        """Whether the images themselves are at hand."""
        return self.pixel_values is not None or self.shown is not None

    def without_pixels(self) -> EncodedSet:
        """Return the same set without its images, for when features are kept instead."""
        return replace(self, pixel_values=None, shown=None)


class AnswerIndex(NamedTuple):
    """Where answer tokens are predicted in a batch; every loss and score reads by it.

    Attributes:
        rows: ``int64 [answers]``, ascending.
        cols: ``int64 [answers]``: position *before* the answer token, whose hidden state
            predicts it; of the same question always.
        targets: ``int64 [answers]`` token ids.
    """

    rows: torch.Tensor
    cols: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length T.

    Attributes:
        input_ids: ``int64 [B, T]``.
        labels: ``int64 [B, T]``: -100 or the token *at* that position.
        attention_mask: ``bool [B, 1, T, T]`` packed, else ``int64 [B, T]``. Padding sees itself,
            so that no row of the softmax is empty.
        position_ids: ``int64 [B, T]``.
        valid: ``bool [B, T]``, false on padding.
        image_tokens: ``bool [B, T]``.
        rows: ``int64 [B]``: rows of the encoded set.
        samples: ``int64 [B]``: samples that the rows came from.
        images: ``int64 [images]``: rows of ``pixel_values`` (or of cached features) that the
            image tokens stand for, in order.
        pixel_values: ``float32 [images, 3, height, width]`` or ``None``.
        answer_index: positions that predict answer tokens.
        answers: ``int64 [answers]``: place of each of these among all answer tokens of the set,
            for what is cached by answer token.
        whole: whether the model's own forward pass reads these rows.
        inputs: what it takes besides tokens and their mask, by name; floats are ``float32``.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    valid: torch.Tensor
    image_tokens: torch.Tensor
    rows: torch.Tensor
    samples: torch.Tensor
    images: torch.Tensor
    pixel_values: torch.Tensor | None
    answer_index: AnswerIndex
    answers: torch.Tensor
    whole: bool = False
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)


def collate(
    encoded: EncodedSet,
    indices: Sequence[int] | np.ndarray,
    device: str | torch.device = "cpu",
    *,
    pixels: bool = True,
) -> Batch:
    """Gather rows into a padded batch; ``pixels=False`` leaves the images out."""
    rows = np.asarray(indices, dtype=np.int64)
    starts, lengths = encoded.offsets[rows], np.diff(encoded.offsets)[rows]
    width = int(lengths.max())
    valid = np.arange(width) < lengths[:, None]
    flat = ranges(starts, lengths)

    def gather(source: np.ndarray, fill: int) -> np.ndarray:
        padded = np.full(valid.shape, fill, dtype=np.int64)
        padded[valid] = source[flat]
        return padded

    input_ids = gather(encoded.input_ids, encoded.pad_token_id)
    labels = gather(encoded.labels, IGNORED)
    mask = valid.astype(np.int64)
    if encoded.packed:
        segments = gather(encoded.segments, -1)[:, None, :]
        mine = segments.swapaxes(1, 2)
        mask = ((segments == 0) | (segments == mine)) & np.tri(width, dtype=bool)
        mask &= valid[:, None, :] | np.eye(width, dtype=bool)
        mask = mask[:, None]
    at, col = np.nonzero(labels != IGNORED)
    first = encoded.image_rows[rows, 0]
    images = ranges(first, encoded.image_rows[rows, 1] - first)
    values = None
    if pixels and encoded.pixel_values is not None and len(images):
        values = _tensor(encoded.pixel_values[images].astype(np.float32), device)
    if encoded.whole and len(images) and encoded.shown is None:
        raise AutoPruneError("the encoded set has no pixels, which its model reads: keep them")
    answers = encoded.answer_offsets[rows]
    return Batch(
        input_ids=_tensor(input_ids, device),
        labels=_tensor(labels, device),
        attention_mask=_tensor(mask, device),
        position_ids=_tensor(gather(encoded.positions, 0), device),
        valid=_tensor(valid, device),
        image_tokens=_tensor((input_ids == encoded.image_token_id) & valid, device),
        rows=_tensor(rows, device),
        samples=_tensor(encoded.samples[rows], device),
        images=_tensor(images, device),
        pixel_values=values,
        answer_index=AnswerIndex(
            _tensor(at, device), _tensor(col - 1, device), _tensor(labels[at, col], device)
        ),
        answers=_tensor(ranges(answers, np.diff(encoded.answer_offsets)[rows]), device),
        whole=encoded.whole,
        inputs={
            **{name: _tensor(gather(kind, 0), device) for name, kind in encoded.types.items()},
            **{
                name: _tensor(values, device)
                for name, values in (
                    encoded.shown.batch(images, encoded.stacked)
                    if encoded.shown is not None and len(images)
                    else {}
                ).items()
            },
        },
    )


def batches(
    encoded: EncodedSet,
    indices: Sequence[int] | np.ndarray,
    size: int,
    device: str | torch.device = "cpu",
    *,
    pixels: bool = True,
) -> Iterator[Batch]:
    """Yield batches of ``size`` rows in the order of ``indices``; the last may be smaller."""
    for begin in range(0, len(indices), size):
        yield collate(encoded, indices[begin : begin + size], device, pixels=pixels)


def _tensor(array: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
