"""Samples as they are encoded: read in pieces, and cut to the length that a row may have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from autoprune.data.conversation import ConversationRow, conversation_row, no_system, talks
from autoprune.data.samples import Sample, SampleSet
from autoprune.errors import AutoPruneError

_CHUNK = 64


class SampleReader:
    """Reads a set once, and counts what its rows lose.

    Args:
        samples: what is read.
        processor: of the model.
        longest: tokens that a conversation's row may have; None: any number.

    Attributes:
        cut: conversations that lost turns.
        left_out: conversations that are left out.
    """

    def __init__(
        self, samples: SampleSet | Sequence[Sample], processor: Any, longest: int | None
    ) -> None:
        self.samples = samples
        self.processor = processor
        self.longest = longest
        self.knows_talk = talks(processor)
        self.cut = 0
        self.left_out = 0

    def chunks(self) -> Iterator[list[tuple[int, Sample]]]:
        """Yield the samples with their places, some at a time.

        A processor that knows no conversations gets their turns one by one.

        Raises:
            AutoPruneError: such a processor meets a sample without image.
        """
        total = len(self.samples)
        for begin in range(0, total, _CHUNK):
            found = []
            for index in range(begin, min(begin + _CHUNK, total)):
                sample = self.samples[index]
                if not sample.images and not self.knows_talk:
                    raise AutoPruneError(
                        f"sample {sample.key!r} has no image, and {type(self.processor).__name__} "
                        "reads nothing without one: take text-only rows out"
                    )
                if sample.system and not self.knows_talk:
                    raise no_system(self.processor, f"sample {sample.key!r}")
                if sample.together and not self.knows_talk:
                    turns = tuple(replace(turn, marks=()) for turn in sample.turns)
                    sample = replace(sample, turns=turns, together=False)
                found.append((index, sample))
            yield found

    def row(self, sample: Sample) -> ConversationRow | None:
        """Return a conversation as a row; None, and counted, if it is left out."""
        row = conversation_row(self.processor, sample, self.longest)
        if row is None:
            self.left_out += 1
        elif row.turns < len(sample.turns):
            self.cut += 1
        return row

    def check_any(self, rows: int) -> None:
        """Refuse a set of which nothing is left.

        Raises:
            AutoPruneError: every sample was left out.
        """
        if self.left_out and not rows:
            raise AutoPruneError(
                f"all {len(self.samples):,} samples are longer than {self.longest:,} tokens: "
                "raise --max-length"
            )
