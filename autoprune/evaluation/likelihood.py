"""How likely given answers are: for tasks that choose among answers instead of asking for one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autoprune.data.chat import TurnTokens, call_options, prompt_of, render_turns, tokenizer_of
from autoprune.data.samples import Turn
from autoprune.errors import AutoPruneError
from autoprune.evaluation.generation import batch_for, require_finite, without_marks

MOST_LOGITS = 2**27
"""Numbers of a batch's output that are held at once: half a gigabyte in float32."""


@dataclass(frozen=True)
class Given:
    """An answer that is given, to a question.

    Attributes:
        text: the prompt.
        answer: whose likelihood is asked.
        images: reads the question's images.
    """

    text: str
    answer: str
    images: Callable[[], Sequence[Any]]


@torch.no_grad()
def losses(
    processor: Any, model: Any, asked: Sequence[Given], batch_size: int = 8
) -> list[tuple[float, bool]]:
    """Return of each answer its mean loss a token, nats, and whether greedy decoding gives it.

    The loss is over the answer's own tokens, its end left out, as lmms-eval's models return it: the
    smaller is the likelier.

    Raises:
        EvaluationFailed: a logit is not finite.
        AutoPruneError: an answer is empty.
    """
    tokenizer = tokenizer_of(processor)
    blank = next((one for one in asked if not one.answer.strip()), None)
    if blank is not None:
        raise AutoPruneError(f"an empty answer is given to {blank.text[:80]!r}: give it a text")
    order = sorted(range(len(asked)), key=lambda i: (len(asked[i].text) + len(asked[i].answer), i))
    found: list[tuple[float, bool]] = [(0.0, False)] * len(asked)
    start = 0
    while start < len(order):
        picked = order[start : start + batch_size]
        for i, pair in zip(
            picked, _batch(processor, tokenizer, model, [asked[i] for i in picked]), strict=True
        ):
            found[i] = pair
        start += len(picked)
    return found


def _batch(
    processor: Any, tokenizer: Any, model: Any, asked: list[Given]
) -> list[tuple[float, bool]]:
    images = [list(one.images()) for one in asked]
    if processor is tokenizer:  # a plain language model reads no images
        images = [[] for _ in asked]
    found = [(0.0, False)] * len(asked)
    # Processors do not take rows with a picture and rows without one together.
    for shown in (True, False):
        own = [i for i, pictures in enumerate(images) if bool(pictures) is shown]
        if own:
            parts = [asked[i] for i in own], [images[i] for i in own]
            for i, pair in zip(own, _alike(processor, tokenizer, model, *parts), strict=True):
                found[i] = pair
    return found


def _alike(
    processor: Any, tokenizer: Any, model: Any, asked: list[Given], images: list[list[Any]]
) -> list[tuple[float, bool]]:
    rows = [_rendered(processor, one, len(shown)) for one, shown in zip(asked, images, strict=True)]
    options = call_options(processor, rows[0][0])
    if rows[0][1].suffix is not None:
        options = {"suffix": [turn.suffix for _, turn in rows]}
    # Padded behind, as positions are counted from the left by every model's own forward.
    inputs = batch_for(model, processor, [text for text, _ in rows], images, "right", options)
    ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(dim=1).tolist()
    spans = [
        _span(tokenizer, turn, int(length)) for (_, turn), length in zip(rows, lengths, strict=True)
    ]
    kept = ids.shape[1] - min(start for start, _ in spans) + 1
    logits = _logits(model, inputs, kept)
    shift = ids.shape[1] - logits.shape[1]
    found = []
    for row, (start, stop) in enumerate(spans):
        own = logits[row, start - 1 - shift : stop - 1 - shift].float()
        require_finite(own)
        targets = ids[row, start:stop]
        loss = torch.nn.functional.cross_entropy(own, targets)
        found.append((float(loss), bool((own.argmax(dim=-1) == targets).all())))
    return found


def _logits(model: Any, inputs: dict[str, Any], kept: int) -> torch.Tensor:
    """Return the outputs of the last ``kept`` positions, or of all where a model gives all."""
    takes = "logits_to_keep" in inspect.signature(model.forward).parameters
    rows, length = inputs["input_ids"].shape
    vocabulary = model.get_output_embeddings().weight.shape[0]
    if rows > 1 and rows * (kept if takes else length) * vocabulary > MOST_LOGITS:
        own = {name: v for name, v in inputs.items() if len(v) == rows}
        if len(own) == len(inputs):  # every tensor has one item a row, so rows can go by themselves
            parts = [
                _logits(model, {n: v[row : row + 1] for n, v in own.items()}, kept)
                for row in range(rows)
            ]
            return torch.cat(parts)
    made: torch.Tensor = model(**inputs, **({"logits_to_keep": kept} if takes else {})).logits
    return made


def _rendered(processor: Any, one: Given, images: int) -> tuple[str, TurnTokens]:
    """Return the text of a question and its answer, and the answer's place in it."""
    question, answer = without_marks(processor, one.text), one.answer.strip()
    pair = (question, answer)
    turn = render_turns(processor, [Turn(*pair, "")], images > 0)[pair]
    if images < 2:
        return turn.text, turn
    single, several = (prompt_of(processor, question, n) for n in (1, images))
    if not turn.text.startswith(single):
        raise AutoPruneError(
            f"the chat template of {type(processor).__name__} takes no several images and an "
            "answer: leave out tasks that choose among given answers"
        )
    return several + turn.text[len(single) :], turn


def _span(tokenizer: Any, turn: TurnTokens, length: int) -> tuple[int, int]:
    """Return where the answer's own tokens begin and end in a row of so many tokens."""
    answer = turn.ids[turn.answer_start :]
    start = length - (turn.length - turn.answer_start)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ends = len(answer) > 1 and answer[-1] in special
    return start, start + len(answer) - ends
