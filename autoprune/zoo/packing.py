"""All questions of an image in one sequence: the layout that the embedded model learns in.

The image prefix stands once; each question sees the prefix and itself only, through a 4D block
mask, and counts its positions from the prefix's end. So each answer is what it would be if the
question were asked alone. Rows hold token ids of single bytes: the vocabulary is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from autoprune.zoo.model import ASSISTANT, BOS, IMAGE, IMAGE_TOKENS, USER, build_tokenizer

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

Asked = tuple[str, str, str]


@dataclass(frozen=True)
class Packed:
    """Token rows of many images.

    Attributes:
        ids: ``uint8 [n, T]``, padded at the end.
        segments: ``int8 [n, T]``: 0 for the prefix, k for the k-th question, -1 for padding.
        places: ``int16 [n, Q]``: the positions that predict an answer token.
        answers: ``int16 [n, Q]``: those tokens; -1 where an image has fewer.
        families: ``int16 [n, Q]``: the family's number, as ``family_names`` lists them, or -1.
        prefix: length of the shared prefix.
    """

    ids: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    answers: np.ndarray
    families: np.ndarray
    prefix: int


def pack(asked: Sequence[Sequence[Asked]], family_names: Sequence[str]) -> Packed:
    """Pack the questions of each image: triples (question, answer, family).

    Without a question, the answer's words predict one another, from the second on.
    """
    tokenizer = build_tokenizer()
    vocabulary = tokenizer.get_vocab()
    prefix = [vocabulary[t] for t in [BOS, USER] + [IMAGE] * IMAGE_TOKENS]
    texts = [turn[0] for turns in asked for turn in turns]
    encoded = iter(tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False))
    number = {name: k for k, name in enumerate(family_names)}
    rows, marks, found = [], [], []
    for turns in asked:
        row, mark = list(prefix), [0] * len(prefix)
        spots = []
        for k, (_, answer, family) in enumerate(turns):
            question = next(encoded).ids
            said = [vocabulary[word] for word in answer.split()]
            lead = [*question, vocabulary[ASSISTANT]] if question else [said.pop(0)]
            first = len(row) + len(lead) - 1
            spots += [(first + j, token, number.get(family, -1)) for j, token in enumerate(said)]
            row += [*lead, *said]
            mark += [k + 1] * (len(lead) + len(said))
        rows.append(row)
        marks.append(mark)
        found.append(spots)
    shape = (len(asked), max(map(len, found)))
    places = np.zeros(shape, dtype=np.int16)
    answers = np.full(shape, -1, dtype=np.int16)
    families = np.full(shape, -1, dtype=np.int16)
    for i, spots in enumerate(found):
        places[i, : len(spots)], answers[i, : len(spots)], families[i, : len(spots)] = zip(
            *spots, strict=True
        )
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), tokenizer.pad_token_id, dtype=np.uint8)
    segments = np.full((len(rows), longest), -1, dtype=np.int8)
    for i, (row, mark) in enumerate(zip(rows, marks, strict=True)):
        ids[i, : len(row)] = row
        segments[i, : len(row)] = mark
    return Packed(ids, segments, places, answers, families, len(prefix))


def layout(segments: torch.Tensor, prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask ``bool [B, 1, T, T]`` and position ids ``[B, T]`` of packed rows."""
    length = segments.shape[1]
    steps = torch.arange(length)
    same = segments[:, :, None] == segments[:, None, :]
    mask = (same | (segments == 0)[:, None, :]) & (steps[:, None] >= steps[None, :])
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = torch.where(first, steps, 0).cummax(1).values
    offset = torch.where(segments == 0, 0, prefix)
    return mask[:, None], steps - start + offset


def decode_places(
    model: LlavaForConditionalGeneration,
    packed: Packed,
    features: torch.Tensor,
    rows: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the projector and backbone over packed rows.

    Args:
        model: a ``LlavaForConditionalGeneration``.
        packed: the token rows.
        features: what the vision tower says of each of ``rows``, ``[B, tokens, dim]``.
        rows: which rows.

    Returns:
        Logits at the positions that predict an answer ``[M, V]``, the answers ``[M]``, and the
        logits one position later, which predict the end token ``[M, V]``.
    """
    segments = torch.from_numpy(packed.segments[rows].astype(np.int64))
    length = int((segments >= 0).sum(1).max())
    segments = segments[:, :length]
    ids = torch.from_numpy(packed.ids[rows, :length].astype(np.int64))
    mask, positions = layout(segments, packed.prefix)
    core = model.model
    embeds = core.language_model.embed_tokens(ids)
    start = packed.prefix - features.shape[1]
    seen = core.multi_modal_projector(features)
    embeds = torch.cat([embeds[:, :start], seen, embeds[:, packed.prefix :]], dim=1)
    hidden = core.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    answers = torch.from_numpy(packed.answers[rows].astype(np.int64))
    row, column = torch.nonzero(answers >= 0, as_tuple=True)
    places = torch.from_numpy(packed.places[rows].astype(np.int64))[row, column]
    logits = model.lm_head(torch.cat([hidden[row, places], hidden[row, places + 1]]))
    at_answer, at_end = logits.chunk(2)
    return at_answer, answers[row, column], at_end
