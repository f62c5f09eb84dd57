"""Answers by greedy generation: what every engine does, and the one for any model and prompt.

``GenericEngine`` is the model's own ``generate`` with left padding. ``packed.PackedEngine`` agrees
with it answer for answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from autoprune.data.chat import call_options, prompt_of, tokenizer_of
from autoprune.errors import AutoPruneError
from autoprune.evaluation.scores import EvaluationFailed


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


def batch_for(
    model: Any,
    processor: Any,
    texts: Sequence[str],
    images: Sequence[Sequence[Any]],
    padding_side: str,
    options: Mapping[str, Any],
) -> dict[str, torch.Tensor]:
    """Return texts with their images as one padded batch, on the model's device and in its type.

    Args:
        model: that reads it.
        processor: of the model.
        texts: rendered by the chat template.
        images: of each text; of all or of none.
        padding_side: ``left`` or ``right``.
        options: of the processor's call.
    """
    inputs = processor(
        text=list(texts),
        padding=True,
        padding_side=padding_side,
        return_tensors="pt",
        **options,
        **({"images": list(images)} if any(images) else {}),
    )
    weight = next(model.parameters())
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if name != "labels"
    }


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
        options = call_options(self.processor, prompts[0])
        inputs = batch_for(model, self.processor, prompts, images, "left", options)
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
