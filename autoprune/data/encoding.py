"""Samples as tokens, once and for all, and batches of them.

Packed layout: the questions of one image stand in one row behind one shared prefix, which holds
the image tokens. A block mask lets a question see the prefix and itself only, and its positions
go on where the prefix ends, so that each question is computed as if it stood alone.

Whole layout: a row is one question, as the processor makes it, with every tensor that the model's
own forward pass takes. :func:`encode_for` chooses by the model.

In both a conversation is a row of its own, with labels on all its answers.
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
from autoprune.data.pictures import PictureKeeper
from autoprune.data.pixels import PixelKeeper, tiles_of
from autoprune.data.reader import SampleReader
from autoprune.data.rows import AnswerIndex, Batch, EncodedSet, batches, collate
from autoprune.data.samples import Sample, SampleSet, without_images
from autoprune.data.whole import WholeBuilder
from autoprune.errors import AutoPruneError
from autoprune.models.families import wrapper_of
from autoprune.models.reading import packs


def encode_for(
    config: Any,
    samples: SampleSet | Sequence[Sample],
    processor: Any,
    *,
    pixel_dtype: type[np.floating] = np.float16,
    keep: int | None = None,
    longest: int | None = None,
) -> EncodedSet:
    """Encode a set in the layout that a model reads.

    Packed where the model takes a block mask and the processor lets questions share an image,
    else whole. A plain language model is asked the questions without their images.

    Args:
        config: of the whole model.
        samples: what to encode.
        processor: of the model.
        pixel_dtype: that pixels are kept in.
        keep: bytes of processed images that a set keeps at most; beyond, images are processed
            whenever they are read. None keeps any number; 0 says that nobody reads the images of
            a whole set, and leaves a packed one as it is.
        longest: tokens of a conversation's row: a longer one is cut at the end of the last whole
            turn that fits, and left out if none does. None takes any length.

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
            packed = encode(
                samples, processor, pixel_dtype=pixel_dtype, keep=keep or None, longest=longest
            )
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
        longest=longest,
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
    longest: int | None = None,
) -> EncodedSet:
    """Tokenise a set and process its images.

    Every turn becomes a conversation of its own by the processor's chat template; a sample whose
    turns are one conversation becomes one row. Samples may be without image, or have several; a
    processor that knows no conversations is asked their turns one by one. Unless ``whole``, images
    (or their tiles) must come out of the processor in one common size.

    Args:
        samples: what to encode.
        processor: of the model.
        packed: questions of an image share a row.
        whole: a row is one question with everything that the processor makes, for the model's
            own forward pass; ``packed`` does not count then.
        stacked: names of tensors whose images' tiles lie on an axis of their own.
        pixel_dtype: that pixels are kept in.
        keep: bytes of processed images that are kept, see :func:`encode_for`.
        longest: tokens of a conversation's row, see :func:`encode_for`.

    Raises:
        AutoPruneError: for a sample without turns, a processor that cannot be used (see
            ``render_turns``), or a template that puts the image behind the question, which
            cannot be packed.
    """
    image_token = image_token_of(processor)
    source = SampleReader(samples, processor, longest)
    if whole:
        builder = WholeBuilder(processor, stacked, pixel_dtype, keep, PictureKeeper(samples))
        return _encode_whole(source, builder, image_token)
    rows = RowBuilder(packed)
    pixels = PixelKeeper(processor, np.dtype(pixel_dtype), keep, samples)
    cache: dict[int, dict[tuple[str, str], TurnTokens]] = {}
    for chunk in source.chunks():
        asked = [s for _, s in chunk if not s.together and len(s.images) < 2]
        render_new(processor, asked, cache)
        shown = iter(process_images(processor, asked, cache.get(1, {}), image_token))
        for index, sample in chunk:
            before = pixels.tiles
            if sample.together or len(sample.images) > 1:
                for number, part in enumerate([sample] if sample.together else sample.alone()):
                    row = source.row(part)
                    if row is None:
                        continue
                    images = part.upto(row.turns).images
                    if images and number == 0:  # those of independent questions are the same
                        pixels.add(index, images, tiles_of(row.made))
                    rows.add_row(index, row.ids, row.labels, (before, pixels.tiles))
                continue
            known = cache[len(sample.images)]
            turns = [known[turn.question, turn.answer] for turn in sample.turns]
            place: int | None = None
            expansion: list[int] = []
            if sample.image is not None:
                place, expansion, tiles = next(shown)
                pixels.add(index, sample.images, tiles)
            rows.add(index, turns, place, expansion, (before, pixels.tiles))
        rows.flush()
    source.check_any(len(rows.samples))
    flat: dict[str, Any] = rows.token_arrays()
    pad = tokenizer_of(processor).pad_token_id
    return EncodedSet(
        **flat,
        **_places(rows.samples, rows.image_rows, samples),
        offsets=np.asarray(rows.offsets, dtype=np.int64),
        answer_offsets=np.asarray(rows.answer_offsets, dtype=np.int64),
        pixel_values=pixels.frozen(),
        packed=rows.packed,
        image_token_id=image_token,
        pad_token_id=0 if pad is None else pad,
        cut=source.cut,
        left_out=source.left_out,
    )


def _encode_whole(source: SampleReader, rows: WholeBuilder, image_token: int) -> EncodedSet:
    cache: dict[int, dict[tuple[str, str], TurnTokens]] = {}
    for chunk in source.chunks():
        render_new(rows.processor, [s for _, s in chunk if not s.together], cache)
        for index, sample in chunk:
            if not sample.together:
                known = cache[len(sample.images)]
                turns = [known[turn.question, turn.answer] for turn in sample.turns]
                rows.add(index, sample, turns)
            elif (row := source.row(sample)) is not None:
                rows.add_conversation(index, sample.upto(row.turns), row)
    source.check_any(len(rows.samples))
    return EncodedSet(
        **rows.token_arrays(),
        **_places(rows.samples, rows.image_rows, source.samples),
        pixel_values=None,
        packed=False,
        image_token_id=image_token,
        pad_token_id=tokenizer_of(rows.processor).pad_token_id or 0,
        whole=True,
        stacked=rows.stacked,
        cut=source.cut,
        left_out=source.left_out,
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
