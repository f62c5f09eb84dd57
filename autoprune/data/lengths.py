"""How long samples are in a model's own tokens, and how long they may be."""

from __future__ import annotations

from typing import Any

from autoprune.data.splits import DataSpec
from autoprune.models.families import text_config


def longest_of(config: Any, data: DataSpec) -> int:
    """Return the tokens that a sample may have: as asked, or the positions that the model knows.

    Args:
        config: of the whole model.
        data: the user's data.
    """
    return data.max_length or int(text_config(config).max_position_embeddings)
