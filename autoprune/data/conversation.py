"""A conversation as one row of tokens: labels on all its answers, and on nothing else.

The model's chat template writes the conversation, its processor puts the images in. Answers are
found in the template's text, and followed into the text that the processor made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from autoprune.data.chat import (
    answer_span,
    call_options,
    form_of,
    rendered,
    special_ids,
    tokenizer_of,
)
from autoprune.data.packing import IGNORED
from autoprune.data.samples import Sample, Turn
from autoprune.errors import AutoPruneError


@dataclass(frozen=True)
class Said:
    """Where an answer stands in a text, in characters.

    Attributes:
        start: of the answer.
        end: of the answer.
        limit: where the message ends that it is in; its end token starts before.
    """

    start: int
    end: int
    limit: int


@dataclass(frozen=True)
class ConversationRow:
    """One conversation as the model reads it.

    Attributes:
        ids: ``int32 [tokens]``, image tokens expanded, up to the end of the last answer.
        labels: ``int32 [tokens]``: the token itself on answers and their end tokens, else -100.
        ends: places behind each answer's end token.
        made: every tensor that the processor made, one row.
        origin: ``int64 [tokens]``: the place in ``made`` of each token, or of the one before it
            where an end token was added.
        turns: how many of the conversation's turns it holds.
    """

    ids: np.ndarray
    labels: np.ndarray
    ends: tuple[int, ...]
    made: Mapping[str, np.ndarray]
    origin: np.ndarray
    turns: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


def talks(processor: Any) -> bool:
    """Whether a processor knows conversations: one without a chat template asks once."""
    return form_of(processor) is None


def conversation_row(
    processor: Any, sample: Sample, longest: int | None = None
) -> ConversationRow | None:
    """Return a conversation as one row.

    Args:
        processor: of the model, with a chat template.
        sample: the conversation.
        longest: tokens that a row may have; a longer conversation is cut at the end of the last
            whole turn that fits.

    Returns:
        The row, or None if not even the first turn fits.

    Raises:
        AutoPruneError: for a template that does not show the answers or the images as they are, or
            not the system message, or a processor that changes the text around an image.
    """
    if not sample.turns:
        raise AutoPruneError(f"sample {sample.key!r} asks nothing; give it a turn")
    row = _row(processor, sample)
    if longest is None or len(row) <= longest:
        return row
    fitting = sum(end <= longest for end in row.ends)
    return None if not fitting else conversation_row(processor, sample.upto(fitting), longest)


def rendered_conversation(processor: Any, sample: Sample) -> tuple[str, list[Said]]:
    """Return a conversation by the chat template, and where its answers stand."""
    messages = _system(processor, sample)
    before = len(messages)
    for turn in sample.turns:
        messages.append(_asked(processor, turn))
        messages.append(_answered(processor, turn))
    text = rendered(processor, messages)
    found = []
    for number, turn in enumerate(sample.turns, start=1):
        so_far = messages[: before + 2 * number]
        prompt = rendered(processor, so_far[:-1], add_generation_prompt=True)
        start, end = answer_span(prompt, text, turn.answer)
        limit = len(text)
        if number < len(sample.turns):
            limit = max(end, _shared(rendered(processor, so_far), text))
        found.append(Said(start, end, limit))
    return text, found


def _row(processor: Any, sample: Sample) -> ConversationRow:
    text, answers = rendered_conversation(processor, sample)
    made, expanded, spans = _processed(processor, sample, text)
    moved = _followed(processor, text, expanded, len(sample.images))
    ids = np.asarray(made["input_ids"][0], dtype=np.int32)
    tokenizer = tokenizer_of(processor)
    special = special_ids(tokenizer)
    starts = np.array([start for start, _ in spans])
    stops = np.array([stop for _, stop in spans])
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    added: list[int] = []
    behind = []
    for said in answers:
        begin, end, limit = moved(said.start), moved(said.end), moved(said.limit)
        # Special tokens may have an empty span, so that an answer's begin is told by its end.
        first = int(np.argmax(stops > begin))
        beyond = [i for i in range(first, len(ids)) if starts[i] >= end]
        after = beyond[0] if beyond else len(ids)
        closing = next((i for i in beyond if ids[i] in special and starts[i] < limit), None)
        if closing is not None:
            after = closing + 1
        elif tokenizer.eos_token_id is not None:
            added.append(after)
        labels[first:after] = ids[first:after]
        behind.append(after)
    kept = behind[-1]
    at = [place for place in added if place <= kept]
    eos = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return ConversationRow(
        ids=np.insert(ids[:kept], at, eos).astype(np.int32),
        labels=np.insert(labels[:kept], at, eos).astype(np.int32),
        ends=tuple(place + sum(other <= place for other in at) for place in behind),
        made=made,
        origin=np.insert(np.arange(kept), at, np.array(at, dtype=np.int64) - 1),
        turns=len(sample.turns),
    )


def _asked(processor: Any, turn: Turn) -> dict[str, Any]:
    """Return a question as a message; images stand where its marks are."""
    if tokenizer_of(processor) is processor:
        return {"role": "user", "content": turn.question}
    content: list[dict[str, Any]] = []
    for begin, end in pairwise((0, *turn.marks, len(turn.question))):
        if text := turn.question[begin:end]:
            content.append({"type": "text", "text": text})
        content.append({"type": "image"})
    return {"role": "user", "content": content[:-1]}


def _system(processor: Any, sample: Sample) -> list[dict[str, Any]]:
    """Return the system message, in the form that the chat template shows; none without one.

    What a template does with it is its own: a role, a default of its own that gives way, or a
    place in the first question.

    Raises:
        AutoPruneError: the template refuses it, or leaves it out.
    """
    if not sample.system:
        return []
    if talks(processor) and (found := _shown_system(processor, sample)) is not None:
        return [found]
    raise no_system(processor, f"sample {sample.key!r}")


def check_system(processor: Any, sample: Sample, called: str) -> None:
    """Check that a processor has a place for a sample's system message.

    Args:
        processor: of the model.
        sample: with such a message.
        called: what to call it in a message.

    Raises:
        AutoPruneError: it has none.
    """
    if not talks(processor) or _shown_system(processor, sample) is None:
        raise no_system(processor, called)


def no_system(processor: Any, called: str) -> AutoPruneError:
    """Return the error of a system message that a processor has no place for."""
    what = "chat template" if talks(processor) else "form of questions"
    return AutoPruneError(
        f"the {what} of {type(processor).__name__} has no place for the system message of "
        f"{called}: take system messages out, or put them before the first question"
    )


def _shown_system(processor: Any, sample: Sample) -> dict[str, Any] | None:
    """Return the system message in the form that a chat template shows; None if it shows none."""
    plain = tokenizer_of(processor) is processor
    parts = [{"type": "text", "text": sample.system}]
    asked = _asked(processor, sample.turns[0])
    wanted = " ".join(sample.system.split())
    for content in (sample.system,) if plain else (parts, sample.system):
        text = _opened(processor, "system", content, asked)
        # Some write a list of parts as Python would.
        if wanted not in " ".join(text.split()) or "'type': 'text'" in text:
            continue
        # Some know two roles, and take whatever is not the one for the other.
        first = sample.system.split()[0]
        said = _opened(processor, "assistant", content, asked)
        answers = bool(said) and said.partition(first)[0] == text.partition(first)[0]
        if not answers and text != _opened(processor, "user", content, asked):
            return {"role": "system", "content": content}
    return None


def _opened(processor: Any, role: str, content: Any, asked: dict[str, Any]) -> str:
    """Return a message and a question by the chat template; nothing where it does not take them."""
    try:
        messages = [{"role": role, "content": content}, asked]
        return rendered(processor, messages, add_generation_prompt=True)
    except (AutoPruneError, TypeError):
        return ""


def _answered(processor: Any, turn: Turn) -> dict[str, Any]:
    plain = tokenizer_of(processor) is processor
    said = turn.answer if plain else [{"type": "text", "text": turn.answer}]
    return {"role": "assistant", "content": said}


def _processed(
    processor: Any, sample: Sample, text: str
) -> tuple[dict[str, np.ndarray], str, list[tuple[int, int]]]:
    """Return what the processor makes, the text that it tokenised, and the tokens' characters."""
    options = call_options(processor, text)
    if tokenizer_of(processor) is processor:
        if sample.images:
            raise AutoPruneError("a plain language model reads no images: take them out")
        found = processor([text], return_offsets_mapping=True, **options)
        made = {n: np.asarray(v) for n, v in found.items() if n != "offset_mapping"}
        return made, text, found["offset_mapping"][0]
    count = len(sample.images)
    marks = text.count(processor.image_token)
    if marks != count:
        raise AutoPruneError(
            f"the chat template of {type(processor).__name__} shows {marks} of the {count} images "
            f"of {sample.key!r}: give each image one mark, and no other {processor.image_token!r}"
        )
    images = {"images": [list(sample.images)]} if count else {}
    with _listening(processor) as heard:
        found = processor(text=[text], return_tensors="pt", **images, **options)
    made = {n: value.numpy() for n, value in found.items() if hasattr(value, "numpy")}
    return made, heard.text, heard.spans


@contextmanager
def _listening(processor: Any) -> Iterator[_Heard]:
    """Within, note what the processor has tokenised."""
    inner = processor.tokenizer
    processor.tokenizer = heard = _Heard(inner)
    try:
        yield heard
    finally:
        processor.tokenizer = inner


class _Heard:
    """Stands in for a tokenizer, and notes the text and the characters of its tokens."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.text = ""
        self.spans: list[tuple[int, int]] = []

    def __call__(self, text: Any = None, **options: Any) -> Any:
        found = self.inner(text, **{**options, "return_offsets_mapping": True})
        spans = found.pop("offset_mapping")
        if isinstance(text, list) and len(text) == 1:
            self.text, self.spans = text[0], [(int(a), int(b)) for a, b in spans[0]]
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _followed(processor: Any, text: str, expanded: str, images: int) -> Any:
    """Return a function from places in ``text`` to places in what the processor made of it.

    What stands between two images is the same in both; each of these pieces is looked for behind
    the one before it, the first at the begin and the last at the end.
    """
    if not images:
        if text != expanded:
            raise AutoPruneError(f"{type(processor).__name__} changes text without images")
        return lambda place: place
    pieces = text.split(processor.image_token)
    there, place, found = [], 0, -1
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        found = len(expanded) - len(piece) if last else expanded.find(piece, place)
        right = expanded.endswith(piece) and found >= place if last else found >= 0
        if not right or (number == 0 and found != 0):
            raise AutoPruneError(
                f"{type(processor).__name__} changes the text around an image; "
                "this processor is not supported"
            )
        there.append(found)
        place = found + len(piece)
    here = np.cumsum([0, *(len(piece) + len(processor.image_token) for piece in pieces[:-1])])

    def moved(at: int) -> int:
        piece = int(np.searchsorted(here, at, side="right")) - 1
        return int(there[piece] + at - here[piece])

    return moved


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
