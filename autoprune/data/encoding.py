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

from autoprune.data.chat import TurnTokens, render_turns, tokenizer_of
from autoprune.data.samples import Sample, SampleSet, Turn
from autoprune.errors import AutoPruneError
from autoprune.identity import content_hash

IGNORED = -100
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
    image_token = _image_token_id(processor)
    rows = _Rows(packed)
    pixels: list[np.ndarray] = []
    total = len(samples)
    cache: dict[bool, dict[tuple[str, str], TurnTokens]] = {True: {}, False: {}}
    for begin in range(0, total, _CHUNK):
        chunk = [samples[i] for i in range(begin, min(begin + _CHUNK, total))]
        _render_new(processor, chunk, cache)
        expansions = iter(_process_images(processor, chunk, cache[True], image_token))
        for index, sample in enumerate(chunk, start=begin):
            known = cache[sample.image is not None]
            turns = [known[turn.question, turn.answer] for turn in sample.turns]
            if sample.image is None:
                rows.add(index, turns, None, [], len(pixels))
                continue
            place, expansion, values = next(expansions)
            pixels.extend(values)
            rows.add(index, turns, place, expansion, len(pixels), len(values))
    return rows.finish(samples, pixels, pixel_dtype, image_token, tokenizer_of(processor))


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


class _Rows:
    """Collects rows while encoding."""

    def __init__(self, packed: bool) -> None:
        self.packed = packed
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.segments: list[int] = []
        self.positions: list[int] = []
        self.offsets, self.answer_offsets = [0], [0]
        self.samples: list[int] = []
        self.image_rows: list[tuple[int, int]] = []

    def add(
        self,
        index: int,
        turns: list[TurnTokens],
        place: int | None,
        expansion: list[int],
        images: int,
        own_images: int = 0,
    ) -> None:
        """Append one sample; its image's placeholder stands at ``place`` of every turn."""
        grown = 0 if place is None else len(expansion) - 1
        for group in [turns] if self.packed else [[turn] for turn in turns]:
            shared = _shared_prefix(group) if self.packed else 0
            if self.packed and place is not None and place >= shared:
                raise AutoPruneError(
                    "the chat template puts the image behind the question, so that questions "
                    "cannot share it; encode with packed=False"
                )
            prefix = self._expand(group[0].ids[:shared], place, expansion)
            self._extend(prefix, [IGNORED] * len(prefix), 0, 0)
            for number, turn in enumerate(group, start=1):
                own = list(turn.ids)
                if not self.packed:
                    own = self._expand(turn.ids, place, expansion)
                rest = own[shared:]
                hidden = turn.answer_start + (grown if place is not None else 0) - len(prefix)
                self._extend(rest, [IGNORED] * hidden + rest[hidden:], number, len(prefix))
            self.offsets.append(len(self.ids))
            said = sum(len(turn.ids) - turn.answer_start for turn in group)
            self.answer_offsets.append(self.answer_offsets[-1] + said)
            self.samples.append(index)
            self.image_rows.append((images - own_images, images))

    @staticmethod
    def _expand(ids: tuple[int, ...], place: int | None, expansion: list[int]) -> list[int]:
        if place is None or place >= len(ids):
            return list(ids)
        return [*ids[:place], *expansion, *ids[place + 1 :]]

    def _extend(self, ids: list[int], labels: list[int], segment: int, position: int) -> None:
        self.ids.extend(ids)
        self.labels.extend(labels)
        self.segments.extend([segment] * len(ids))
        self.positions.extend(range(position, position + len(ids)))

    def finish(
        self,
        samples: SampleSet | Sequence[Sample],
        pixels: list[np.ndarray],
        pixel_dtype: type[np.floating],
        image_token: int,
        tokenizer: Any,
    ) -> EncodedSet:
        """Freeze what was collected into arrays."""
        of = np.asarray(self.samples, dtype=np.int64)
        ring = getattr(samples, "ring", None)
        strata = getattr(samples, "strata", None)
        if len({values.shape for values in pixels}) > 1:
            raise AutoPruneError("images come out of the processor in several sizes; fix one size")
        pad = tokenizer.pad_token_id
        return EncodedSet(
            input_ids=np.asarray(self.ids, dtype=np.int32),
            labels=np.asarray(self.labels, dtype=np.int32),
            segments=np.asarray(self.segments, dtype=np.int32),
            positions=np.asarray(self.positions, dtype=np.int32),
            offsets=np.asarray(self.offsets, dtype=np.int64),
            answer_offsets=np.asarray(self.answer_offsets, dtype=np.int64),
            samples=of,
            image_rows=np.asarray(self.image_rows, dtype=np.int64).reshape(-1, 2),
            pixel_values=np.stack(pixels).astype(pixel_dtype) if pixels else None,
            ring=np.arange(len(samples))[of] / len(samples) if ring is None else ring[of],
            strata=np.zeros(len(of), dtype=np.int64) if strata is None else strata[of],
            packed=self.packed,
            image_token_id=image_token,
            pad_token_id=0 if pad is None else pad,
        )


def _shared_prefix(turns: list[TurnTokens]) -> int:
    """Return how many tokens all turns begin with; each keeps one before its answer."""
    first, last = min(turn.ids for turn in turns), max(turn.ids for turn in turns)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(same, len(first)), *(turn.answer_start - 1 for turn in turns))


def _image_token_id(processor: Any) -> int:
    found = getattr(processor, "image_token_id", None)
    if found is None and getattr(processor, "image_token", None) is not None:
        found = tokenizer_of(processor).convert_tokens_to_ids(processor.image_token)
    return -1 if found is None else int(found)


def _render_new(
    processor: Any, chunk: list[Sample], cache: dict[bool, dict[tuple[str, str], TurnTokens]]
) -> None:
    """Render turns of ``chunk`` that were not met before."""
    fresh: dict[bool, list[Turn]] = {True: [], False: []}
    for sample in chunk:
        if not sample.turns:
            raise AutoPruneError(f"sample {sample.key!r} asks nothing; give it a turn")
        known = cache[sample.image is not None]
        fresh[sample.image is not None].extend(
            turn for turn in sample.turns if (turn.question, turn.answer) not in known
        )
    for with_image, turns in fresh.items():
        cache[with_image].update(render_turns(processor, turns, with_image))


def _process_images(
    processor: Any,
    chunk: list[Sample],
    rendered: dict[tuple[str, str], TurnTokens],
    image_token: int,
) -> list[tuple[int, list[int], list[np.ndarray]]]:
    """Return (place of the placeholder, what it expands to, pixel rows) of samples with image.

    The processor sees each image with the first of its questions; what it made of the
    placeholder there holds for the other questions too.
    """
    shown = [sample for sample in chunk if sample.image is not None]
    if not shown:
        return []
    if tokenizer_of(processor) is processor:
        raise AutoPruneError("a plain language model reads no images: take them out of the data")
    firsts = [rendered[s.turns[0].question, s.turns[0].answer] for s in shown]
    texts = [turn.text for turn in firsts]
    bos = tokenizer_of(processor).bos_token
    begins = bos is not None and texts[0].startswith(bos)
    out = processor(text=texts, images=[[s.image] for s in shown], add_special_tokens=not begins)
    values = out["pixel_values"]
    if len(values) != len(shown):
        raise AutoPruneError(
            f"{type(processor).__name__} cuts {len(shown)} images into {len(values)} tiles; "
            "switch tiling off in the image processor"
        )
    result = []
    for turn, ids, pixel in zip(firsts, out["input_ids"], values, strict=True):
        ids = list(ids)
        place = turn.ids.index(image_token) if image_token in turn.ids else 0
        behind = place + 1 + len(ids) - turn.length
        # The text may run on behind the answer's end token, so only what was kept is compared.
        tail = list(turn.ids[place + 1 : turn.answer_start])
        same = ids[:place] == list(turn.ids[:place]) and ids[behind : behind + len(tail)] == tail
        if not same or image_token not in turn.ids:
            raise AutoPruneError(
                f"{type(processor).__name__} does not put the image where its chat template "
                "marks it; this processor is not supported"
            )
        result.append((place, ids[place:behind], [np.asarray(pixel)]))
    return result
