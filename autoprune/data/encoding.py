"""Samples as tokens, once and for all, and batches of them.

Packed layout: the questions of one image stand in one row behind one shared prefix, which holds
the image tokens. A block mask lets a question see the prefix and itself only, and its positions
go on where the prefix ends, so that each question is computed as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from autoprune.data.chat import TurnTokens, tokenizer_of
from autoprune.data.packing import IGNORED, RowBuilder, image_token_of, process_images, render_new
from autoprune.data.samples import Sample, SampleSet
from autoprune.errors import AutoPruneError
from autoprune.identity import content_hash

_CHUNK = 64


@dataclass(frozen=True)
class EncodedSet:
    """A tokenised set: flat arrays with offsets, which travel between processes uncopied.

    A row is a sample (packed) or a question (plain).

    Attributes:
        input_ids: ``int32 [tokens]``, image tokens expanded.
        labels: ``int32 [tokens]``: the token itself on answers and their end tokens, else -100.
        segments: ``int32 [tokens]``: 0 for the shared prefix, k for the row's k-th question.
        positions: ``int32 [tokens]``, starting again behind the prefix for each question.
        offsets: ``int64 [rows + 1]`` into the token arrays.
        answer_offsets: ``int64 [rows + 1]`` into the answer tokens of the whole set.
        samples: ``int64 [rows]``: the sample that a row came from.
        image_rows: ``int64 [rows, 2]``: start and stop of the row's images in ``pixel_values``.
        pixel_values: ``[images, 3, height, width]``, float16 unless asked otherwise; its rounding
            is at most a fourteenth of one step of an 8-bit pixel. ``None`` without images.
        ring: ``float64 [rows]``, see ``SampleSet.ring``.
        strata: ``int64 [rows]``, see ``SampleSet.strata``.
        packed: which layout this is.
        image_token_id: the id of image tokens; -1 if the processor has none.
        pad_token_id: fills rows up; never seen by any token.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    answer_offsets: np.ndarray
    samples: np.ndarray
    image_rows: np.ndarray
    pixel_values: np.ndarray | None
    ring: np.ndarray
    strata: np.ndarray
    packed: bool
    image_token_id: int
    pad_token_id: int

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
        return content_hash([getattr(self, field.name) for field in fields(self)])

    def without_pixels(self) -> EncodedSet:
        """Return the same set without its images, for when features are kept instead."""
        return replace(self, pixel_values=None)


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


def encode(
    samples: SampleSet | Sequence[Sample],
    processor: Any,
    *,
    packed: bool = True,
    pixel_dtype: type[np.floating] = np.float16,
) -> EncodedSet:
    """Tokenise a set and process its images, each image once.

    Every turn becomes a conversation of its own by the processor's chat template. Samples may be
    without image; images must come out of the processor in one common size.

    Raises:
        AutoPruneError: for a sample without turns, a processor that cannot be used (see
            ``render_turns``), or a template that puts the image behind the question, which
            cannot be packed.
    """
    image_token = image_token_of(processor)
    rows = RowBuilder(packed)
    pixels: list[np.ndarray] = []
    images, total = 0, len(samples)
    cache: dict[bool, dict[tuple[str, str], TurnTokens]] = {True: {}, False: {}}
    for begin in range(0, total, _CHUNK):
        chunk = [samples[i] for i in range(begin, min(begin + _CHUNK, total))]
        render_new(processor, chunk, cache)
        found = process_images(processor, chunk, cache[True], image_token)
        pixels.extend(values.astype(pixel_dtype) for _, _, values in found)
        shown = iter(found)
        for index, sample in enumerate(chunk, start=begin):
            known = cache[sample.image is not None]
            turns = [known[turn.question, turn.answer] for turn in sample.turns]
            if sample.image is None:
                rows.add(index, turns, None, [], (images, images))
            else:
                place, expansion, _ = next(shown)
                rows.add(index, turns, place, expansion, (images, images + 1))
                images += 1
        rows.flush()
    return _frozen(rows, samples, pixels, image_token, tokenizer_of(processor).pad_token_id)


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
    flat = _ranges(starts, lengths)

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
    images = _ranges(first, encoded.image_rows[rows, 1] - first)
    values = None
    if pixels and encoded.pixel_values is not None and len(images):
        values = _tensor(encoded.pixel_values[images].astype(np.float32), device)
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
        answers=_tensor(_ranges(answers, np.diff(encoded.answer_offsets)[rows]), device),
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


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return ``start, start + 1, …`` of every range, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + lengths, lengths)


def _frozen(
    rows: RowBuilder,
    samples: SampleSet | Sequence[Sample],
    pixels: list[np.ndarray],
    image_token: int,
    pad: int | None,
) -> EncodedSet:
    """Freeze what was collected into arrays."""
    of = np.asarray(rows.samples, dtype=np.int64)
    ring = getattr(samples, "ring", None)
    strata = getattr(samples, "strata", None)
    if len({values.shape for values in pixels}) > 1:
        raise AutoPruneError("images come out of the processor in several sizes; fix one size")
    return EncodedSet(
        **rows.token_arrays(),
        offsets=np.asarray(rows.offsets, dtype=np.int64),
        answer_offsets=np.asarray(rows.answer_offsets, dtype=np.int64),
        samples=of,
        image_rows=np.asarray(rows.image_rows, dtype=np.int64).reshape(-1, 2),
        pixel_values=np.stack(pixels) if pixels else None,
        ring=np.arange(len(samples))[of] / len(samples) if ring is None else ring[of],
        strata=np.zeros(len(of), dtype=np.int64) if strata is None else strata[of],
        packed=rows.packed,
        image_token_id=image_token,
        pad_token_id=0 if pad is None else pad,
    )
