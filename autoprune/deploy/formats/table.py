"""The table of formats."""

from __future__ import annotations

from autoprune.deploy.formats.format import Format
from autoprune.deploy.formats.gguf import Gguf
from autoprune.deploy.formats.onnx import Onnx
from autoprune.errors import AutoPruneError, did_you_mean

CHECKPOINT = "hf"
"""A Hugging Face checkpoint: what ``apply`` writes, and what the others are made from."""

HOLDS = {
    CHECKPOINT: "any model, in its own precision; transformers loads it",
    "onnx": "LLaVA, InternVL and plain language models, each layer of its own shape or all alike, "
    "as float32 graphs for ONNX Runtime",
    "gguf": "the language part alone, for llama.cpp, where all layers have one shape",
}
"""What each format holds, in words."""

_FORMATS: dict[str, Format] = {found.name: found for found in (Onnx(), Gguf())}


def find_format(name: str) -> Format | None:
    """Return a format by its name; None for a Hugging Face checkpoint.

    Raises:
        AutoPruneError: there is none of this name (says the nearest).
    """
    if name == CHECKPOINT:
        return None
    if name in _FORMATS:
        return _FORMATS[name]
    raise AutoPruneError(f"unknown format {name!r}{did_you_mean(name, list(HOLDS))}")
