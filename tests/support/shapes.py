"""Shapes of models that people prune, as ``config.json`` alone: no weights are ever needed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).parents[2] / "experiments" / "real_shapes" / "shapes"
"""One directory a model, with a ``config.json``."""


def _siglip(hidden: int, wide: int, layers: int, patches: int) -> int:
    """Parameters of a SigLIP tower without its pooling head: patches of 14 by 14 pixels."""
    embeddings = hidden * 3 * 14 * 14 + hidden + patches * hidden
    layer = 4 * (hidden * hidden + hidden) + 4 * hidden + 2 * hidden * wide + wide + hidden
    return embeddings + layers * layer + 2 * hidden


def _mlp(*widths: int) -> int:
    return sum(a * b + b for a, b in pairwise(widths))


# Published counts of the parts; the projectors between them are added up here.
PHI_2, PHI_3_MINI, INTERN_VIT = 2_779_683_840, 3_821_079_552, 304_012_288
PARAMS = {
    "llava-1.5-7b": 7_063_427_072,
    "qwen2.5-vl-7b": 8_292_166_656,
    # Phi-2's head has a bias, that of LLaVA's class has none.
    "bunny-3b": PHI_2 - 51200 + _siglip(1152, 4304, 27, 729) + _mlp(1152, 2560, 2560),
    # Its vocabulary has 44 rows less than that of Phi-3-mini, in the embedding and in the head.
    "mini-internvl-4b": PHI_3_MINI - 2 * 44 * 3072 + INTERN_VIT + 2 * 4096 + _mlp(4096, 3072, 3072),
}


def shape_config(name: str) -> Any:
    """Return the configuration of a shape."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(SHAPES / name)
