"""One question and its answer as tokens, by the chat template of whatever processor is given.

A few families have no chat template: they were trained on questions in a form of their own, which
stands in :data:`FORMS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoprune.data.samples import Turn
from autoprune.errors import AutoPruneError

FORMS = {"PaliGemmaProcessor": "{image}answer en {question}"}
"""Questions to processors that have no chat template, by their class; the answer is a suffix.

PaliGemma's is the form of the visual question answering that its mixed checkpoints were trained
on (its model card's "answer en"); its processor adds the start and the line break.
"""


@dataclass(frozen=True)
class TurnTokens:
    """A turn as its own conversation, the image still one placeholder.

    Attributes:
        text: what was tokenised.
        ids: tokens up to and with the end token of the answer; those of the answer alone where
            there is a ``suffix``.
        length: tokens of the whole text, which may run on behind the end token.
        answer_start: place of the answer's first token in ``ids``; all from there on is answer.
        suffix: the answer, where the processor takes it apart from the question.
    """

    text: str
    ids: tuple[int, ...]
    length: int
    answer_start: int
    suffix: str | None = None

    def options(self, processor: Any) -> dict[str, Any]:
        """Return what to call the processor with besides text and images."""
        if self.suffix is not None:
            return {"suffix": [self.suffix]}
        return call_options(processor, self.text)


def render_turns(
    processor: Any, turns: list[Turn], images: int
) -> dict[tuple[str, str], TurnTokens]:
    """Render and tokenise turns by (question, answer), each of them once.

    Each is a conversation of its own behind so many images.

    The answer's end token is the first special token behind it; a template that ends an answer
    with none gets the tokenizer's end-of-sequence token, as LLaVA was trained.

    Raises:
        AutoPruneError: for a processor without chat template or without a fast tokenizer, or a
            template that does not show the answer as it is.
    """
    tokenizer = tokenizer_of(processor)
    if not tokenizer.is_fast:
        raise AutoPruneError(f"{type(tokenizer).__name__} is slow; save the fast tokenizer instead")
    pairs = list(dict.fromkeys((turn.question, turn.answer) for turn in turns))
    if not pairs:
        return {}
    if form_of(processor) is not None:
        return {pair: _suffixed(processor, *pair, images) for pair in pairs}
    prompts: dict[str, str] = {}
    texts = []
    for question, answer in pairs:
        asked = _message(processor, "user", question, images)
        if question not in prompts:
            prompts[question] = prompt_of(processor, question, images)
        said = _message(processor, "assistant", answer, 0)
        texts.append(rendered(processor, [asked, said]))
    options = call_options(processor, texts[0])
    encoded = tokenizer(texts, return_offsets_mapping=True, **options)
    special = special_ids(tokenizer)
    result = {}
    for row, ((question, answer), text) in enumerate(zip(pairs, texts, strict=True)):
        start, end = answer_span(prompts[question], text, answer)
        ids, spans = encoded["input_ids"][row], encoded["offset_mapping"][row]
        first = next((i for i, (_, stop) in enumerate(spans) if stop > start), len(ids))
        behind = [i for i in range(first, len(ids)) if not spans[i][0] < end]
        after = behind[0] if behind else len(ids)
        closing = next((i for i in behind if ids[i] in special), None)
        if closing is not None:
            kept = ids[: closing + 1]
        else:
            stop_id = tokenizer.eos_token_id
            kept = ids[:after] + ([] if stop_id is None else [stop_id])
        result[question, answer] = TurnTokens(text, tuple(kept), len(ids), min(first, len(kept)))
    return result


def tokenizer_of(processor: Any) -> Any:
    """Return the tokenizer of a processor; a plain language model's processor is one itself."""
    return getattr(processor, "tokenizer", processor)


def form_of(processor: Any) -> str | None:
    """Return how a processor without a chat template is asked; None if it has one.

    Raises:
        AutoPruneError: if it has none and no form is known.
    """
    if getattr(processor, "chat_template", None) is not None:
        return None
    name = type(processor).__name__
    if name not in FORMS:
        raise AutoPruneError(f"{name} has no chat template; save one with the processor")
    return FORMS[name]


def prompt_of(processor: Any, question: str, images: int) -> str:
    """Return the text that asks a question about so many images, up to where the answer begins."""
    form = form_of(processor)
    if form is not None:
        return form.format(image=processor.image_token * images, question=question)
    asked = _message(processor, "user", question, images)
    return rendered(processor, [asked], add_generation_prompt=True)


def rendered(processor: Any, messages: list[dict[str, Any]], **options: bool) -> str:
    """Return the text of a conversation by the chat template."""
    from jinja2 import TemplateError

    try:
        return str(processor.apply_chat_template(messages, tokenize=False, **options))
    except TemplateError as error:
        reason = " ".join(str(error).split())[:200]
        raise AutoPruneError(
            f"the chat template of {type(processor).__name__} does not take a question and an "
            f"answer ({reason}): copy it again, or mend it"
        ) from None


def call_options(processor: Any, text: str) -> dict[str, Any]:
    """Return what to call a processor or tokenizer with, so that a text begins but once."""
    if form_of(processor) is not None:
        return {}
    start = tokenizer_of(processor).bos_token
    return {"add_special_tokens": not (start is not None and text.startswith(start))}


def _suffixed(processor: Any, question: str, answer: str, images: int) -> TurnTokens:
    tokenizer = tokenizer_of(processor)
    ids = tokenizer(answer.strip() + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    prompt = prompt_of(processor, question, images)
    return TurnTokens(prompt, tuple(ids), len(ids), 0, suffix=answer.strip())


def _message(processor: Any, role: str, text: str, images: int) -> dict[str, Any]:
    if tokenizer_of(processor) is processor:
        return {"role": role, "content": text}
    shown = [{"type": "image"}] * images
    return {"role": role, "content": [*shown, {"type": "text", "text": text}]}


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of all special tokens, those that were added later included."""
    added = tokenizer.added_tokens_decoder.items()
    return set(tokenizer.all_special_ids) | {i for i, token in added if token.special}


def answer_span(prompt: str, text: str, answer: str) -> tuple[int, int]:
    """Return the characters of ``text`` that are the answer, from the end of the prompt on."""
    said = answer.strip()
    start = len(prompt)
    if not text.startswith(prompt):  # the generation prompt says more than the conversation
        pairs = enumerate(zip(prompt, text, strict=False))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(prompt), len(text)))
        # The answer may begin as the prompt goes on, so it starts up to its length earlier.
        start = text.find(said, max(0, shared - len(said)))
    found = text.find(said, start) if start >= 0 else -1
    if found < 0:
        raise AutoPruneError(f"the chat template does not show the answer {answer!r} as it is")
    return start, found + len(said)
