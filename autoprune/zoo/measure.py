"""Accuracy by family, fast: packed questions, the commonest next token, no evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from autoprune.zoo.packing import decode_places, pack
from autoprune.zoo.questions import FAMILIES
from autoprune.zoo.splits import load_split
from autoprune.zoo.tower import to_pixels, tower_features

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


@torch.no_grad()
def accuracy(model: LlavaForConditionalGeneration, split: str, size: int) -> dict[str, float]:
    """Return the accuracy of each family on the first ``size`` images of a split.

    Args:
        model: a ``LlavaForConditionalGeneration`` with the embedded model's tokenizer.
        split: one of ``SPLITS``.
        size: number of images.
    """
    was_training = model.training
    model.eval()
    samples = list(load_split(split, size))
    asked = [[(t.question, t.answer, t.source) for t in sample.turns] for sample in samples]
    packed = pack(asked, tuple(FAMILIES))
    right, family = [], []
    for start in range(0, len(samples), 64):
        rows = np.arange(start, min(start + 64, len(samples)))
        pixels = to_pixels(np.stack([np.asarray(samples[i].image) for i in rows]))
        features = tower_features(model.model.vision_tower, pixels)
        logits, answers, _ = decode_places(model, packed, features, rows)
        right.append((logits.argmax(-1) == answers).numpy())
        numbers = packed.families[rows]
        family.append(numbers[numbers >= 0])
    model.train(was_training)
    hits, numbers = np.concatenate(right), np.concatenate(family)
    return {name: float(hits[numbers == k].mean()) for k, name in enumerate(FAMILIES)}


def table(scores: Mapping[str, float]) -> str:
    """Return one line of scores, their average first."""
    average = np.mean(list(scores.values()))
    parts = "  ".join(f"{name} {score:.3f}" for name, score in scores.items())
    return f"average {average:.3f}  {parts}"
