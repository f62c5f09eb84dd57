"""The table of formats."""

from __future__ import annotations

from autoprune.deploy.formats.format import Format
from autoprune.errors import AutoPruneError, did_you_mean

CHECKPOINT = "hf"
"""A Hugging Face checkpoint: what ``apply`` writes, and what the others are made from."""

HOLDS = {
    CHECKPOINT: "any model, in its own precision; transformers loads it",
}
"""What each format holds, in words."""


def find_format(name: str) -> Format | None:
    """Return a format by its name; None for a Hugging Face checkpoint.

    Raises:
        AutoPruneError: there is none of this name (says the nearest).
    """
    if name == CHECKPOINT:
        return None
    formats: dict[str, Format] = {}
    if name in formats:
        return formats[name]
    raise AutoPruneError(f"unknown format {name!r}{did_you_mean(name, list(HOLDS))}")
