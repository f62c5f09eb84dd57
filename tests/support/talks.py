"""Conversations for the tiny models, and what a model makes of them, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from autoprune.data.encoding import IGNORED, EncodedSet, collate
from autoprune.data.samples import Sample, Turn, without_images
from autoprune.models.reading import answer_states, batch_features
from autoprune.models.vision import head
from support.families import EOS
from support.questions import SAMPLES

SQUARE, WIDE, HIGH = (sample.image for sample in SAMPLES)
TALKS = (
    Sample(
        "two images, three turns",
        SQUARE,
        (
            Turn("what is the digit ?", "3", "one", (0,)),
            Turn("and on the left", "red 7", "one", (4,)),
            Turn("how many ?", "2", "one"),
        ),
        more=(WIDE,),
        together=True,
    ),
    Sample("text", None, (Turn("how many ?", "7 no", "two"), Turn("and ?", "4", "two")),
           together=True),
    Sample("two at once", HIGH, (Turn("is 3 on the left ?", "yes", "one", (0, 0)),),
           more=(SQUARE,), together=True),
)  # fmt: skip


def shown(samples: tuple[Sample, ...], vision: bool) -> list[Sample]:
    return list(samples if vision else without_images(samples))


def by_hand(
    processor: Any, sample: Sample, before: Sequence[dict[str, Any]] = ()
) -> tuple[dict[str, Any], torch.Tensor]:
    """What the processor makes of the conversation, and labels read off its role words."""
    plain = not hasattr(processor, "tokenizer")
    tokenizer = processor if plain else processor.tokenizer
    messages = list(before)
    for turn in sample.turns:
        content: Any = []
        at = 0
        for mark in turn.marks:
            content += [{"type": "text", "text": turn.question[at:mark]}, {"type": "image"}]
            at = mark
        content.append({"type": "text", "text": turn.question[at:]})
        content = [part for part in content if part.get("text") != ""]
        messages.append({"role": "user", "content": turn.question if plain else content})
        said = turn.answer if plain else [{"type": "text", "text": turn.answer}]
        messages.append({"role": "assistant", "content": said})
    text = processor.apply_chat_template(messages, tokenize=False)
    images = {"images": [list(sample.images)]} if sample.images else {}
    made = processor(text=[text], return_tensors="pt", add_special_tokens=False, **images)
    ids = made["input_ids"][0]
    labels, answering = torch.full_like(ids, IGNORED), False
    begins = tokenizer.convert_tokens_to_ids("assistant:")
    for place, token in enumerate(ids.tolist()):
        if answering:
            labels[place] = token
        answering = token == begins or (answering and token != EOS)
    return dict(made), labels


@torch.no_grad()
def losses_by_hand(
    model: Any, processor: Any, sample: Sample, before: Sequence[dict[str, Any]] = ()
) -> torch.Tensor:
    made, labels = by_hand(processor, sample, before)
    made.pop("labels", None)
    logits = model(**made).logits[0]
    keep = labels != IGNORED
    found = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="none")
    return found[keep[1:]]


@torch.no_grad()
def losses(model: Any, encoded: EncodedSet, rows: list[int]) -> torch.Tensor:
    batch = collate(encoded, rows)
    logits = head(model)(answer_states(model, batch, batch_features(model, batch)))
    return torch.nn.functional.cross_entropy(logits, batch.answer_index.targets, reduction="none")
