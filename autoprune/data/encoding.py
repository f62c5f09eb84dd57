"""Samples as tokens, once and for all, and batches of them.

Packed layout: the questions of one image stand in one row behind one shared prefix, which holds
the image tokens. A block mask lets a question see the prefix and itself only, and its positions
go on where the prefix ends, so that each question is computed as if it stood alone.

Whole layout: a row is one question, as the processor makes it, with every tensor that the model's
own forward pass takes. :func:`encode_for` chooses by the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.data.chat import TurnTokens, tokenizer_of
from autoprune.data.packing import (
    IGNORED,
    CannotPack,
    RowBuilder,
    image_token_of,
    process_images,
    render_new,
)
from autoprune.data.rows import AnswerIndex, Batch, EncodedSet, batches, collate
from autoprune.data.samples import Sample, SampleSet, without_images
from autoprune.data.whole import WholeBuilder
from autoprune.errors import AutoPruneError
from autoprune.models.families import wrapper_of
from autoprune.models.reading import packs

_CHUNK = 64


def encode_for(
    config: Any,
    samples: SampleSet | Sequence[Sample],
    processor: Any,
    *,
    pixel_dtype: type[np.floating] = np.float16,
    keep: int | None = None,
) -> EncodedSet:
    """Encode a set in the layout that a model reads.

    Packed where the model takes a block mask and the processor lets questions share an image,
    else whole. A plain language model is asked the questions without their images.

    Args:
        config: of the whole model.
        samples: what to encode.
        processor: of the model.
        pixel_dtype: that pixels are kept in.
        keep: bytes of processed images that a whole set keeps at most; beyond, images are
            processed whenever they are read. None keeps any number.

    Raises:
        AutoPruneError: see :func:`encode`; and if model and processor disagree on what an image
            token is.
    """
    row = wrapper_of(config)
    if row.projector is None:
        samples = without_images(samples)
    elif (token := image_token_of(processor)) not in (-1, config.image_token_id):
        raise AutoPruneError(
            f"an image is token {token} to the processor and token {config.image_token_id} in "
            "config.json: use the processor that belongs to this model"
        )
    if packs(config):
        try:
            packed = encode(samples, processor, pixel_dtype=pixel_dtype)
            if packs(config, int(packed.positions.max(initial=0)) + 1):
                return packed
        except CannotPack:
            pass
    return encode(
        samples,
        processor,
        whole=True,
        stacked=row.stacked,
        pixel_dtype=pixel_dtype,
        keep=keep,
    )


def encode(
    samples: SampleSet | Sequence[Sample],
    processor: Any,
    *,
    packed: bool = True,
    whole: bool = False,
    stacked: tuple[str, ...] = (),
    pixel_dtype: type[np.floating] = np.float16,
    keep: int | None = None,
) -> EncodedSet:
    """Tokenise a set and process its images.

    Every turn becomes a conversation of its own by the processor's chat template. Samples may be
    without image. Unless ``whole``, images (or their tiles) must come out of the processor in one
    common size.

    Args:
        samples: what to encode.
        processor: of the model.
        packed: questions of an image share a row.
        whole: a row is one question with everything that the processor makes, for the model's
            own forward pass; ``packed`` does not count then.
        stacked: names of tensors whose images' tiles lie on an axis of their own.
        pixel_dtype: that pixels are kept in.
        keep: bytes of processed images that are kept if ``whole``, see :func:`encode_for`.

    Raises:
        AutoPruneError: for a sample without turns, a processor that cannot be used (see
            ``render_turns``), or a template that puts the image behind the question, which
            cannot be packed.
    """
    image_token = image_token_of(processor)
    if whole:
        rows_alone = WholeBuilder(processor, stacked, pixel_dtype, keep)
        return _encode_whole(samples, rows_alone, image_token)
    rows = RowBuilder(packed)
    pixels: list[np.ndarray] = []
    images, total = 0, len(samples)
    cache: dict[bool, dict[tuple[str, str], TurnTokens]] = {True: {}, False: {}}
    for begin in range(0, total, _CHUNK):
        chunk = [samples[i] for i in range(begin, min(begin + _CHUNK, total))]
        render_new(processor, chunk, cache)
        found = process_images(processor, chunk, cache[True], image_token)
        pixels.extend(tile.astype(pixel_dtype) for _, _, tiles in found for tile in tiles)
        shown = iter(found)
        for index, sample in enumerate(chunk, start=begin):
            known = cache[sample.image is not None]
            turns = [known[turn.question, turn.answer] for turn in sample.turns]
            if sample.image is None:
                rows.add(index, turns, None, [], (images, images))
            else:
                place, expansion, tiles = next(shown)
                rows.add(index, turns, place, expansion, (images, images + len(tiles)))
                images += len(tiles)
        rows.flush()
    return _frozen(rows, samples, pixels, image_token, tokenizer_of(processor).pad_token_id)


def _encode_whole(
    samples: SampleSet | Sequence[Sample], rows: WholeBuilder, image_token: int
) -> EncodedSet:
    cache: dict[bool, dict[tuple[str, str], TurnTokens]] = {True: {}, False: {}}
    for begin in range(0, len(samples), _CHUNK):
        chunk = [samples[i] for i in range(begin, min(begin + _CHUNK, len(samples)))]
        render_new(rows.processor, chunk, cache)
        for index, sample in enumerate(chunk, start=begin):
            known = cache[sample.image is not None]
            rows.add(index, sample, [known[turn.question, turn.answer] for turn in sample.turns])
    return EncodedSet(
        **rows.token_arrays(),
        **_places(rows.samples, rows.image_rows, samples),
        pixel_values=None,
        packed=False,
        image_token_id=image_token,
        pad_token_id=tokenizer_of(rows.processor).pad_token_id or 0,
        whole=True,
        stacked=rows.stacked,
    )


def _frozen(
    rows: RowBuilder,
    samples: SampleSet | Sequence[Sample],
    pixels: list[np.ndarray],
    image_token: int,
    pad: int | None,
) -> EncodedSet:
    """Freeze what was collected into arrays."""
    if len({values.shape for values in pixels}) > 1:
        raise AutoPruneError("images come out of the processor in several sizes; fix one size")
    flat: dict[str, Any] = rows.token_arrays()
    return EncodedSet(
        **flat,
        **_places(rows.samples, rows.image_rows, samples),
        offsets=np.asarray(rows.offsets, dtype=np.int64),
        answer_offsets=np.asarray(rows.answer_offsets, dtype=np.int64),
        pixel_values=np.stack(pixels) if pixels else None,
        packed=rows.packed,
        image_token_id=image_token,
        pad_token_id=0 if pad is None else pad,
    )


def _places(
    of: list[int], images: list[tuple[int, int]], samples: SampleSet | Sequence[Sample]
) -> dict[str, Any]:
    """Return where rows came from, as arrays by their names in an encoded set."""
    rows = np.asarray(of, dtype=np.int64)
    ring = getattr(samples, "ring", None)
    strata = getattr(samples, "strata", None)
    return {
        "samples": rows,
        "image_rows": np.asarray(images, dtype=np.int64).reshape(-1, 2),
        "ring": np.arange(len(samples))[rows] / len(samples) if ring is None else ring[rows],
        "strata": np.zeros(len(rows), dtype=np.int64) if strata is None else strata[rows],
    }


__all__ = [
    "IGNORED",
    "AnswerIndex",
    "Batch",
    "EncodedSet",
    "batches",
    "collate",
    "encode",
    "encode_for",
]
