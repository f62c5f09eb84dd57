"""How long a user's samples are in a model's own tokens, and what of them is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from autoprune.data.conversation import ConversationRow, check_system, conversation_row, talks
from autoprune.data.samples import Sample, without_images
from autoprune.data.sources.mix import scattered
from autoprune.data.sources.user import TALKING, UserSplits
from autoprune.data.splits import DataSpec
from autoprune.errors import AutoPruneError
from autoprune.models.families import text_config, wrapper_of

MOST = 2000
"""Rows that might be too long of which so many are measured one by one."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of a user's samples, in tokens.

    Attributes:
        longest: that a sample may have.
        tokens: ``int64``: lengths of the rows that were measured, drawn by content.
        cut: rows that are longer and lose their last turns.
        left_out: rows of which not even the first turn fits.
        exact: whether these two were counted, or are taken from a part of the rows.
    """

    longest: int
    tokens: np.ndarray
    cut: int
    left_out: int
    exact: bool

    def quantile(self, share: float) -> int:
        """Return the length that this share of the rows does not pass."""
        return int(np.quantile(self.tokens, share, method="inverted_cdf"))

    @property
    def line(self) -> str:
        """What becomes of samples that are too long; nothing where there are none."""
        if not self.cut + self.left_out:
            return ""
        about = "" if self.exact else "about "
        return (
            f"{about}{self.cut + self.left_out:,} samples are longer than {self.longest:,} tokens: "
            f"{self.cut:,} are cut behind their last whole turn that fits, {self.left_out:,} of "
            "which not even the first turn fits are left out"
        )


def longest_of(config: Any, data: DataSpec) -> int:
    """Return the tokens that a sample may have: as asked, or the positions that the model knows.

    Args:
        config: of the whole model.
        data: the user's data.

    Raises:
        AutoPruneError: more is asked than there are positions.
    """
    positions = int(text_config(config).max_position_embeddings)
    if data.max_length is not None and data.max_length > positions:
        raise AutoPruneError(
            f"--max-length {data.max_length} is more than the {positions:,} positions of the "
            "model: give that or less, or leave it out"
        )
    return data.max_length or positions


def measure(
    splits: UserSplits, config: Any, processor: Any, longest: int, rows: int = 256
) -> Lengths:
    """Read some rows as the model does, and tell how many of all are too long.

    No text has more tokens than bytes, and a template adds no more to other rows than to those
    that were read; so most rows are known to fit without looking.

    Args:
        splits: the user's data.
        config: of the whole model.
        processor: of the model.
        longest: tokens that a sample may have, see :func:`longest_of`.
        rows: that are read at first, their images too.

    Raises:
        AutoPruneError: an image that does not decode, a row that the model cannot read, or no row
            that fits, in all or in a split that is trained or measured on; a system message that
            the processor has no place for, wherever it stands.
    """
    _check_system(splits, processor)
    reader = _Reader(splits, config, processor, longest)
    total = len(splits.rows)
    numbers = np.array([reader.text(place) for place in range(total)])
    order = np.lexsort((np.arange(total), scattered(numbers + 1)))
    first = order[:rows].tolist()
    found = [reader.row(place) for place in first]
    tokens = np.array([length for length, _ in found])
    # Beyond its text, what a row of so many turns and images had at most.
    more = max(
        (length - reader.size(place)) / reader.parts(place)
        for place, length in zip(first, tokens.tolist(), strict=True)
    )
    bound = np.array(
        [reader.size(place) + max(0.0, more) * reader.parts(place) for place in range(total)]
    )
    seen = dict(zip(first, found, strict=True))
    unsure = [
        p for p in order.tolist() if bound[p] > longest or (p in seen and seen[p][0] > longest)
    ]
    judged = unsure[:MOST]
    kept = [seen[place] if place in seen else reader.row(place) for place in judged]
    part = len(unsure) / len(judged) if judged else 1.0
    cut = sum(length > longest and turns > 0 for length, turns in kept)
    left_out = sum(length > longest and turns == 0 for length, turns in kept)
    if left_out * part >= total:
        raise AutoPruneError(
            f"no sample of {splits.name} fits into {longest:,} tokens, the shortest has "
            f"{int(tokens.min()):,}: raise --max-length"
        )
    if part == 1.0:
        gone = [p for p, (n, turns) in zip(judged, kept, strict=True) if n > longest and not turns]
        for name in TALKING:
            places = splits.places[name]
            if np.isin(places, gone).all():
                raise AutoPruneError(
                    f"no sample of {splits.name}/{name} fits into {longest:,} tokens, "
                    f"{left_out:,} of all {total:,} are longer: raise --max-length"
                )
    return Lengths(longest, tokens, round(cut * part), round(left_out * part), part == 1.0)


def _check_system(splits: UserSplits, processor: Any) -> None:
    """Check that system messages have a place, by the first row of each source that has one."""
    for number, source in enumerate(splits.sources):
        used = splits.rows[splits.of == number]
        for row in used[source.index.system[used]][:1].tolist():
            check_system(processor, source.sample(row), source.called(source.file.row(row), row))


class _Reader:
    """Reads rows of the mix as a model does."""

    def __init__(self, splits: UserSplits, config: Any, processor: Any, longest: int) -> None:
        self.splits, self.processor, self.longest = splits, processor, longest
        self.blind = wrapper_of(config).projector is None
        self.of, self.rows = splits.of.tolist(), splits.rows.tolist()

    def text(self, place: int) -> int:
        """Return a number that tells a row's text from others."""
        return int(self.splits.sources[self.of[place]].index.texts[self.rows[place]])

    def size(self, place: int) -> int:
        """Return the bytes of a row's text."""
        return int(self.splits.sources[self.of[place]].index.size[self.rows[place]])

    def parts(self, place: int) -> int:
        """Return how many turns and images a row has; a system message is one more."""
        index = self.splits.sources[self.of[place]].index
        row = self.rows[place]
        images = 0 if self.blind else int(index.offsets[row + 1] - index.offsets[row])
        return int(index.turns[row]) + images + int(index.system[row])

    def row(self, place: int) -> tuple[int, int]:
        """Return a row's tokens, and how many of its turns fit."""
        sample = self.splits.sources[self.of[place]].sample(self.rows[place])
        made = read_row(self.processor, sample, self.blind)
        fitting = sum(end <= self.longest for end in made.ends)
        return len(made), fitting


def read_row(processor: Any, sample: Sample, blind: bool) -> ConversationRow:
    """Return a conversation as the model reads it, however long.

    A processor that knows no conversations is shown none: what it would make is like its first
    turn.

    Args:
        processor: of the model.
        sample: the conversation.
        blind: whether the model reads no images.

    Raises:
        AutoPruneError: see ``conversation_row``; a sample without image for a processor that
            reads nothing without one.
    """
    seen = without_images([sample])[0] if blind else sample
    if not talks(processor):
        return _asked_once(processor, seen)
    row = conversation_row(processor, seen)
    assert row is not None
    return row


def _asked_once(processor: Any, sample: Sample) -> ConversationRow:
    from autoprune.data.encoding import encode

    rows = encode([sample], processor, whole=True, keep=0)
    begin, end = rows.offsets[0], rows.offsets[1]
    ids, labels = rows.input_ids[begin:end], rows.labels[begin:end]
    longest = int(np.diff(rows.offsets).max())
    return ConversationRow(ids, labels, (longest,), {}, np.arange(len(ids)), len(sample.turns))


def pieces(row: ConversationRow, tokenizer: Any) -> list[tuple[str, bool]]:
    """Return a row's text in pieces, each with whether it is trained on.

    Runs of one and the same token, as an image becomes, are said by their number.
    """
    labelled = row.labels == row.ids
    borders = [0, *(np.flatnonzero(np.diff(labelled)) + 1).tolist(), len(row.ids)]
    return [
        (_said(row.ids[begin:end].tolist(), tokenizer), bool(labelled[begin]))
        for begin, end in pairwise(borders)
        if end > begin
    ]


def _said(ids: Sequence[int], tokenizer: Any) -> str:
    parts: list[list[int]] = []
    for token in ids:
        if parts and parts[-1][-1] == token:
            parts[-1].append(token)
        else:
            parts.append([token])
    text, plain = "", []
    for run in parts:
        if len(run) < 4:
            plain += run
            continue
        text += tokenizer.decode(plain) + f"{tokenizer.decode(run[:1])}×{len(run)}"
        plain = []
    return text + str(tokenizer.decode(plain))
