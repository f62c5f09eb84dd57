"""One question and its answer as tokens, by the chat template of whatever processor is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoprune.data.samples import Turn
from autoprune.errors import AutoPruneError


@dataclass(frozen=True)
class TurnTokens:
    """A turn as its own conversation, the image still one placeholder.

    Attributes:
        text: what was tokenised.
        ids: tokens up to and with the end token of the answer.
        length: tokens of the whole text, which may run on behind the end token.
        answer_start: place of the answer's first token in ``ids``; all from there on is answer.
    """

    text: str
    ids: tuple[int, ...]
    length: int
    answer_start: int


def render_turns(
    processor: Any, turns: list[Turn], with_image: bool
) -> dict[tuple[str, str], TurnTokens]:
    """Render and tokenise turns by (question, answer), each of them once.

    The answer's end token is the first special token behind it; a template that ends an answer
    with none gets the tokenizer's end-of-sequence token, as LLaVA was trained.

    Raises:
        AutoPruneError: for a processor without chat template or without a fast tokenizer, or a
            template that does not show the answer as it is.
    """
    tokenizer = tokenizer_of(processor)
    if getattr(processor, "chat_template", None) is None:
        name = type(processor).__name__
        raise AutoPruneError(f"{name} has no chat template; save one with the processor")
    if not tokenizer.is_fast:
        raise AutoPruneError(f"{type(tokenizer).__name__} is slow; save the fast tokenizer instead")
    pairs = list(dict.fromkeys((turn.question, turn.answer) for turn in turns))
    if not pairs:
        return {}
    prompts: dict[str, str] = {}
    texts = []
    for question, answer in pairs:
        asked = _message(processor, "user", question, with_image)
        if question not in prompts:
            prompts[question] = processor.apply_chat_template(
                [asked], add_generation_prompt=True, tokenize=False
            )
        said = _message(processor, "assistant", answer, False)
        texts.append(processor.apply_chat_template([asked, said], tokenize=False))
    begins = tokenizer.bos_token is not None and texts[0].startswith(tokenizer.bos_token)
    encoded = tokenizer(texts, add_special_tokens=not begins, return_offsets_mapping=True)
    special = _special_ids(tokenizer)
    result = {}
    for row, ((question, answer), text) in enumerate(zip(pairs, texts, strict=True)):
        start, end = _answer_span(prompts[question], text, answer)
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


def _message(processor: Any, role: str, text: str, with_image: bool) -> dict[str, Any]:
    if tokenizer_of(processor) is processor:
        return {"role": role, "content": text}
    image = [{"type": "image"}] if with_image else []
    return {"role": role, "content": [*image, {"type": "text", "text": text}]}


def _special_ids(tokenizer: Any) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return set(tokenizer.all_special_ids) | {i for i, token in added if token.special}


def _answer_span(prompt: str, text: str, answer: str) -> tuple[int, int]:
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
