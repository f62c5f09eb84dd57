"""Answers by greedy generation, in two ways that agree answer for answer.

``GenericEngine`` is the model's own ``generate`` with left padding: any model, any prompt.
``PackedEngine`` answers all questions of an image together: they share one prefix, which holds
the image, and a block mask keeps them apart. The first token of every answer comes out of one
forward pass; further tokens are one more short pass each, for the answers that are not at their
end, over the cached keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from autoprune.data.chat import call_options, prompt_of, tokenizer_of
from autoprune.data.encoding import IGNORED, Batch, EncodedSet, batches
from autoprune.errors import AutoPruneError
from autoprune.evaluation.scores import EvaluationFailed
from autoprune.models.reading import batch_features
from autoprune.models.vision import decode, embed, head


@dataclass(frozen=True)
class Question:
    """One request of an evaluation.

    Attributes:
        key: its document, ``sample key/turn`` for materialised tasks.
        text: the prompt, without image marks or a chat template.
        images: reads its images (PIL), if any.
        max_new_tokens: the answer is cut there.
        until: texts that end the answer, besides the end token.
    """

    key: str
    text: str
    images: Callable[[], Sequence[Any]]
    max_new_tokens: int = 16
    until: tuple[str, ...] = ()


class AnswerEngine(Protocol):
    """Answers questions with a model; raises what the model raises."""

    def answer(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """Return one answer per question.

        Raises:
            EvaluationFailed: a logit is not finite.
        """
        ...


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the generation config's, or else the tokenizer's."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise AutoPruneError("neither model nor tokenizer has an end token: set eos_token_id")
    return [int(e) for e in ends] if isinstance(ends, (list, tuple)) else [int(ends)]


def finish(tokenizer: Any, tokens: Sequence[int], until: Sequence[str]) -> str:
    """Return the text of an answer's tokens, cut at the first of ``until``."""
    text = str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    for stop in until:
        if stop:
            text = text.split(stop, 1)[0]
    return text.strip()


def require_finite(logits: torch.Tensor) -> None:
    """Refuse logits ``[..., vocabulary]`` with NaN or infinity: argmax would make answers of them.

    Raises:
        EvaluationFailed: with the share of answer tokens that are broken.
    """
    finite = torch.isfinite(logits).all(dim=-1)
    if not bool(finite.all()):
        raise EvaluationFailed(
            f"logits are not finite at {int((~finite).sum())} of {finite.numel()} answer tokens: "
            "the model has diverged; lower the learning rate or change the recipe"
        )


def without_marks(processor: Any, text: str) -> str:
    """Return a prompt without marks of images: they are set before it, as many as there are."""
    for mark in {getattr(processor, "image_token", None), "<image>"} - {None, ""}:
        text = text.replace(str(mark), "")
    return text.strip() if text.strip() else text


# --- any model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenericEngine:
    """Batched ``model.generate`` behind the processor's chat template.

    Attributes:
        processor: of the model.
        batch_size: questions a batch.
    """

    processor: Any
    batch_size: int = 32

    @torch.no_grad()
    def answer(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """See :class:`AnswerEngine`; questions of like length and limit share a batch."""
        order = sorted(
            range(len(questions)),
            key=lambda i: (questions[i].max_new_tokens, len(questions[i].text), i),
        )
        answers = [""] * len(questions)
        for start in range(0, len(order), self.batch_size):
            picked = order[start : start + self.batch_size]
            texts = self._generate(model, [questions[i] for i in picked])
            for i, text in zip(picked, texts, strict=True):
                answers[i] = text
        return answers

    def _generate(self, model: Any, questions: list[Question]) -> list[str]:
        images = [list(question.images()) for question in questions]
        answers = [""] * len(questions)
        # Processors do not take rows with a picture and rows without one together.
        for shown in (True, False):
            own = [i for i, found in enumerate(images) if bool(found) is shown]
            if own:
                texts = self._alike(model, [questions[i] for i in own], [images[i] for i in own])
                for i, text in zip(own, texts, strict=True):
                    answers[i] = text
        return answers

    def _alike(self, model: Any, questions: list[Question], images: list[list[Any]]) -> list[str]:
        tokenizer = tokenizer_of(self.processor)
        if self.processor is tokenizer:  # a plain language model reads no images
            images = [[] for _ in questions]
        prompts = [
            prompt_of(self.processor, without_marks(self.processor, question.text), len(shown))
            for question, shown in zip(questions, images, strict=True)
        ]
        inputs = self.processor(
            text=prompts,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **call_options(self.processor, prompts[0]),
            **({"images": images} if any(images) else {}),
        )
        weight = next(model.parameters())
        inputs = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if name != "labels"
        }
        ends = end_tokens(model, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
        made = model.generate(
            **inputs,
            max_new_tokens=max(question.max_new_tokens for question in questions),
            do_sample=False,
            num_beams=1,
            eos_token_id=ends,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        answers = []
        for row, (question, tokens) in enumerate(zip(questions, new, strict=True)):
            kept: list[int] = []
            for step, token in enumerate(tokens[: question.max_new_tokens]):
                require_finite(made.logits[step][row])
                if token in ends:
                    break
                kept.append(token)
            answers.append(finish(tokenizer, kept, question.until))
        return answers


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


# --- packed -------------------------------------------------------------------------------------


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
