"""Rows of tokens out of turns: questions of one image behind one shared prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.data.chat import TurnTokens, call_options, render_turns, tokenizer_of
from autoprune.data.samples import Sample, Turn
from autoprune.errors import AutoPruneError

IGNORED = -100


class CannotPack(AutoPruneError):  # noqa: N818 - what it is, not what kind of error
    """The processor or its chat template does not let questions of an image share a row."""


_TOKEN_ARRAYS = ("input_ids", "labels", "segments", "positions")


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


class RowBuilder:
    """Collects rows while encoding."""

    def __init__(self, packed: bool) -> None:
        self.packed = packed
        self.tokens: dict[str, list[int]] = {name: [] for name in _TOKEN_ARRAYS}
        self.arrays: dict[str, list[np.ndarray]] = {name: [] for name in _TOKEN_ARRAYS}
        self.offsets, self.answer_offsets = [0], [0]
        self.samples: list[int] = []
        self.image_rows: list[tuple[int, int]] = []

    def add(
        self,
        index: int,
        turns: list[TurnTokens],
        place: int | None,
        expansion: list[int],
        images: tuple[int, int],
    ) -> None:
        """Append one sample; its image's placeholder stands at ``place`` of every turn."""
        grown = 0 if place is None else len(expansion) - 1
        for group in [turns] if self.packed else [[turn] for turn in turns]:
            shared = _shared_prefix(group) if self.packed else 0
            if self.packed and place is not None and place >= shared:
                raise CannotPack(
                    "the chat template puts the image behind the question, so that questions "
                    "cannot share it; encode with packed=False"
                )
            prefix = self._expand(group[0].ids[:shared], place, expansion)
            length = self._extend(prefix, [IGNORED] * len(prefix), 0, 0)
            for number, turn in enumerate(group, start=1):
                own = list(turn.ids)
                if not self.packed:
                    own = self._expand(turn.ids, place, expansion)
                rest = own[shared:]
                hidden = turn.answer_start + (grown if place is not None else 0) - len(prefix)
                labels = [IGNORED] * hidden + rest[hidden:]
                length += self._extend(rest, labels, number, len(prefix))
            said = sum(len(turn.ids) - turn.answer_start for turn in group)
            self._close(index, length, said, images)

    def add_row(
        self, index: int, ids: np.ndarray, labels: np.ndarray, images: tuple[int, int]
    ) -> None:
        """Append a row that is one conversation: nothing of it is shared."""
        length = self._extend(ids.tolist(), labels.tolist(), 1, 0)
        self._close(index, length, int((labels != IGNORED).sum()), images)

    def _close(self, index: int, length: int, said: int, images: tuple[int, int]) -> None:
        self.offsets.append(self.offsets[-1] + length)
        self.answer_offsets.append(self.answer_offsets[-1] + said)
        self.samples.append(index)
        self.image_rows.append(images)

    @staticmethod
    def _expand(ids: tuple[int, ...], place: int | None, expansion: list[int]) -> list[int]:
        if place is None or place >= len(ids):
            return list(ids)
        return [*ids[:place], *expansion, *ids[place + 1 :]]

    def _extend(self, ids: list[int], labels: list[int], segment: int, position: int) -> int:
        self.tokens["input_ids"].extend(ids)
        self.tokens["labels"].extend(labels)
        self.tokens["segments"].extend([segment] * len(ids))
        self.tokens["positions"].extend(range(position, position + len(ids)))
        return len(ids)

    def flush(self) -> None:
        """Turn what was collected into arrays, which take a tenth of the lists' memory."""
        for name, tokens in self.tokens.items():
            self.arrays[name].append(np.asarray(tokens, dtype=np.int32))
            tokens.clear()

    def token_arrays(self) -> dict[str, np.ndarray]:
        """Return the token arrays of all rows, by name."""
        self.flush()
        return {name: _joined(parts) for name, parts in self.arrays.items()}


def _shared_prefix(turns: list[TurnTokens]) -> int:
    """Return how many tokens all turns begin with; each keeps one before its answer."""
    first, last = min(turn.ids for turn in turns), max(turn.ids for turn in turns)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(same, len(first)), *(turn.answer_start - 1 for turn in turns))


def image_token_of(processor: Any) -> int:
    """Return the id of image tokens; -1 if the processor has none."""
    # Gemma 3's processor calls the mark of an image's start its image token.
    found = getattr(tokenizer_of(processor), "image_token_id", None)
    if found is None:
        found = getattr(processor, "image_token_id", None)
    if found is None and getattr(processor, "image_token", None) is not None:
        found = tokenizer_of(processor).convert_tokens_to_ids(processor.image_token)
    return -1 if found is None else int(found)


def render_new(
    processor: Any,
    chunk: Sequence[Sample],
    cache: dict[int, dict[tuple[str, str], TurnTokens]],
) -> None:
    """Render turns of ``chunk`` that were not met before; ``cache`` is by number of images."""
    fresh: dict[int, list[Turn]] = {}
    for sample in chunk:
        if not sample.turns:
            raise AutoPruneError(f"sample {sample.key!r} asks nothing; give it a turn")
        images = len(sample.images)
        known = cache.setdefault(images, {})
        fresh.setdefault(images, []).extend(
            turn for turn in sample.turns if (turn.question, turn.answer) not in known
        )
    for images, turns in fresh.items():
        cache[images].update(render_turns(processor, turns, images))


def process_images(
    processor: Any,
    chunk: Sequence[Sample],
    rendered: dict[tuple[str, str], TurnTokens],
    image_token: int,
) -> list[tuple[int, list[int], np.ndarray]]:
    """Return (place of the placeholder, what it expands to, tiles) of samples with image.

    The processor sees each image with the first of its questions; what it made of the
    placeholder there holds for the other questions too. Tiles are [tiles, 3, height, width].

    Raises:
        AutoPruneError: for a plain language model.
        CannotPack: if the placeholder cannot be told apart in what the processor made.
    """
    shown = [sample for sample in chunk if sample.image is not None]
    if not shown:
        return []
    if tokenizer_of(processor) is processor:
        raise AutoPruneError("a plain language model reads no images: take them out of the data")
    firsts = [rendered[s.turns[0].question, s.turns[0].answer] for s in shown]
    texts = [turn.text for turn in firsts]
    options = call_options(processor, texts[0])
    out = processor(text=texts, images=[[s.image] for s in shown], **options)
    tiles = [np.asarray(pixel)[None] for pixel in out["pixel_values"]]
    if len(tiles) != len(shown):  # several tiles an image: one by one, to know which are whose
        alone = (
            processor(text=[text], images=[[s.image]], **options)["pixel_values"]
            for text, s in zip(texts, shown, strict=True)
        )
        tiles = [np.stack([np.asarray(pixel) for pixel in pixels]) for pixels in alone]
    result = []
    for turn, ids, pixels in zip(firsts, out["input_ids"], tiles, strict=True):
        ids = list(ids)
        place = turn.ids.index(image_token) if image_token in turn.ids else 0
        behind = place + 1 + len(ids) - turn.length
        # The text may run on behind the answer's end token, so only what was kept is compared.
        tail = list(turn.ids[place + 1 : turn.answer_start])
        same = ids[:place] == list(turn.ids[:place]) and ids[behind : behind + len(tail)] == tail
        if not same or image_token not in turn.ids:
            raise CannotPack(
                f"{type(processor).__name__} does not put the image where its chat template "
                "marks it, so that questions cannot share it"
            )
        result.append((place, ids[place:behind], pixels))
    return result
