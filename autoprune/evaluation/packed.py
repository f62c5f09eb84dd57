"""Answers to all questions of an image together, by greedy generation.

They share one prefix, which holds the image, and a block mask keeps them apart. The first token of
every answer comes out of one forward pass; further tokens are one more short pass each, for the
answers that are not at their end, over the cached keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from autoprune.data.encoding import IGNORED, Batch, EncodedSet, batches
from autoprune.errors import AutoPruneError
from autoprune.evaluation.generation import (
    GenericEngine,
    Question,
    end_tokens,
    finish,
    require_finite,
)
from autoprune.models.reading import batch_features
from autoprune.models.vision import decode, embed, head


@dataclass
class _Answer:
    """A question under way: where it stands in the prompts, and its tokens so far."""

    segment: int
    column: int
    position: int
    limit: int = 0
    tokens: list[int] = field(default_factory=list)
    done: bool = False

    def accept(self, token: int, ends: Sequence[int]) -> None:
        """Take the next token, which may be the last."""
        if token in ends:
            self.done = True
        else:
            self.tokens.append(token)
            self.done = len(self.tokens) >= self.limit


@dataclass(frozen=True)
class PackedEngine:
    """Answers questions of an encoded set, all of an image at once.

    Attributes:
        tokenizer: turns tokens into text.
        encoded: packed; its answers are not looked at.
        places: of each question's key its row and segment in ``encoded``.
        features: ``[images, tokens, dim]``, the projector's inputs by row of the set's
            ``pixel_values``; None computes them from the pixels each time.
        batch_size: images a batch.
    """

    tokenizer: Any
    encoded: EncodedSet
    places: Mapping[str, tuple[int, int]]
    features: np.ndarray | torch.Tensor | None = None
    batch_size: int = 16

    @torch.no_grad()
    def answer(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """See :class:`AnswerEngine`.

        Raises:
            AutoPruneError: a question is not in the encoded set.
        """
        missing = [q.key for q in questions if q.key not in self.places]
        if missing:
            raise AutoPruneError(f"question {missing[0]!r} is not in the encoded set: encode it")
        places = [self.places[q.key] for q in questions]
        prompts = select_prompts(self.encoded, places)
        of_row = _questions_of(prompts)
        answers = {
            (int(row), answer.segment): answer
            for row, group in zip(prompts.samples, of_row, strict=True)
            for answer in group
        }
        for place, question in zip(places, questions, strict=True):
            answers[place].limit = max(answers[place].limit, question.max_new_tokens)
        ends = end_tokens(model, self.tokenizer)
        device = next(model.parameters()).device
        longest_first = np.argsort(-np.diff(prompts.offsets), kind="stable")
        for batch in batches(
            prompts, longest_first, self.batch_size, device, pixels=self.features is None
        ):
            self._decode(model, prompts, batch, [of_row[r] for r in batch.rows.tolist()], ends)
        return [
            finish(self.tokenizer, answers[place].tokens[: question.max_new_tokens], question.until)
            for place, question in zip(places, questions, strict=True)
        ]

    def _decode(
        self,
        model: Any,
        prompts: EncodedSet,
        batch: Batch,
        questions: Sequence[Sequence[_Answer]],
        ends: Sequence[int],
    ) -> None:
        """Let the ``questions`` of a batch's rows grow to their ends."""
        from transformers import DynamicCache

        cache = DynamicCache()
        output = head(model)
        shown = batch_features(model, batch, self.features)
        hidden = decode(
            model,
            embed(model, batch.input_ids, shown),
            batch.attention_mask,
            batch.position_ids,
            cache,
        )
        owners = _padded_segments(prompts, batch)
        alive = [(row, answer) for row, group in enumerate(questions) for answer in group]
        columns = [answer.column for _, answer in alive]
        while True:
            rows = [row for row, _ in alive]
            logits = output(hidden[rows, columns])
            require_finite(logits)
            for (_, answer), token in zip(alive, logits.argmax(dim=-1).tolist(), strict=True):
                answer.accept(token, ends)
            alive = [(row, answer) for row, answer in alive if not answer.done]
            if not alive:
                return
            step = _next_step(alive, len(questions), prompts.pad_token_id)
            columns = step.columns
            queries = torch.from_numpy(step.segments).to(owners.device)
            owners = torch.cat([owners, queries], dim=1)
            # A question sees the prefix and itself; what fills the step up sees its like, so that
            # no softmax is empty and no key is NaN.
            seen = (owners[:, None, :] == 0) | (owners[:, None, :] == queries[:, :, None])
            hidden = decode(
                model,
                model.get_input_embeddings()(torch.from_numpy(step.tokens).to(owners.device)),
                seen[:, None],
                torch.from_numpy(step.positions).to(owners.device),
                cache,
            )


class _Step(NamedTuple):
    """The last tokens of unfinished answers, row by row: ``int64 [B, most of a row]``."""

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    columns: list[int]


def _next_step(alive: Sequence[tuple[int, _Answer]], rows: int, pad: int) -> _Step:
    taken = [0] * rows
    columns = []
    for row, _ in alive:
        columns.append(taken[row])
        taken[row] += 1
    shape = (rows, max(taken))
    step = _Step(np.full(shape, pad), np.full(shape, -1), np.zeros(shape, np.int64), columns)
    for (row, answer), column in zip(alive, columns, strict=True):
        step.tokens[row, column] = answer.tokens[-1]
        step.segments[row, column] = answer.segment
        step.positions[row, column] = answer.position + len(answer.tokens)
    return step


def _questions_of(prompts: EncodedSet) -> list[list[_Answer]]:
    """Find the last token of every question, row by row."""
    lengths = np.diff(prompts.offsets)
    row = np.repeat(np.arange(len(prompts)), lengths)
    last = np.flatnonzero(np.diff(row, append=-1) | np.diff(prompts.segments, append=-1))
    found: list[list[_Answer]] = [[] for _ in range(len(prompts))]
    for at in last[prompts.segments[last] > 0].tolist():
        column = at - int(prompts.offsets[row[at]])
        answer = _Answer(int(prompts.segments[at]), column, int(prompts.positions[at]))
        found[int(row[at])].append(answer)
    return found


def _padded_segments(prompts: EncodedSet, batch: Batch) -> torch.Tensor:
    """Return which question each position of a batch belongs to, ``int64 [B, T]``; -1 is padding.

    The prefix is 0.
    """
    rows = batch.rows.cpu().numpy()
    flat = [prompts.segments[prompts.offsets[r] : prompts.offsets[r + 1]] for r in rows]
    owners = torch.full(batch.valid.shape, -1, dtype=torch.int64, device=batch.valid.device)
    owners[batch.valid] = torch.from_numpy(np.concatenate(flat)).to(owners)
    return owners


def select_prompts(encoded: EncodedSet, questions: Sequence[tuple[int, int]]) -> EncodedSet:
    """Return these (row, segment) of ``encoded`` with their prefixes, and without answers.

    ``samples`` of the result holds the rows of ``encoded`` that its rows came from.
    """
    wanted = np.zeros((len(encoded), int(encoded.segments.max()) + 1), dtype=bool)
    rows, segments = np.asarray(questions, dtype=np.int64).T
    wanted[rows, segments] = True
    wanted[rows, 0] = True
    row = np.repeat(np.arange(len(encoded)), np.diff(encoded.offsets))
    keep = wanted[row, encoded.segments] & (encoded.labels == IGNORED)
    rows, lengths = np.unique(row[keep], return_counts=True)
    return replace(
        encoded,
        input_ids=encoded.input_ids[keep],
        labels=encoded.labels[keep],
        segments=encoded.segments[keep],
        positions=encoded.positions[keep],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        answer_offsets=np.zeros(len(rows) + 1, dtype=np.int64),
        samples=rows,
        image_rows=encoded.image_rows[rows],
        ring=encoded.ring[rows],
        strata=encoded.strata[rows],
    )


@dataclass(frozen=True)
class RoutedEngine:
    """Asks what it can packed, and all else as any model is asked.

    Attributes:
        packed: answers the questions that stand in its encoded set.
        generic: answers the others.
    """

    packed: PackedEngine
    generic: GenericEngine

    def answer(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """See :class:`AnswerEngine`."""
        inside = [i for i, q in enumerate(questions) if q.key in self.packed.places]
        beside = [i for i, q in enumerate(questions) if q.key not in self.packed.places]
        answers = [""] * len(questions)
        for engine, places in ((self.packed, inside), (self.generic, beside)):
            if places:
                found = engine.answer(model, [questions[i] for i in places])
                for i, text in zip(places, found, strict=True):
                    answers[i] = text
        return answers
