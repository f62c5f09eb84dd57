"""The proof of a converted checkpoint: a fresh process loads it with the stock class."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.models.fresh import UNPROVED, run_fresh

_SCRIPT = Path(__file__).with_name("prove_load.py")


@dataclass(frozen=True)
class LoadProof:
    """What a fresh process found when it loaded a converted checkpoint.

    Attributes:
        model_class: the class that was loaded.
        tensors: how many were compared, bit for bit, with what was read from the original.
        image_tokens: places of the image in a question about one.
        seconds: that loading and asking took.
    """

    model_class: str
    tensors: int
    image_tokens: int
    seconds: float


def prove_load(directory: Path, model_class: str, digests: Mapping[str, str]) -> LoadProof:
    """Load a checkpoint in a process that cannot import AutoPrune, and ask it about an image.

    Args:
        directory: the checkpoint.
        model_class: name of the transformers class that must load it.
        digests: of every tensor, by its name in the model.

    Raises:
        AutoPruneError: if it does not load, any tensor is missing, left over, newly initialised
            or another than was written, or it has no answer to a question about an image.
    """
    with tempfile.TemporaryDirectory(prefix="autoprune-proof-") as scratch:
        request = {
            "directory": str(directory),
            "model_class": model_class,
            "digests": dict(digests),
            "threads": torch.get_num_threads(),
        }
        path = Path(scratch) / "request.json"
        path.write_text(json.dumps(request))
        (found,) = run_fresh(_SCRIPT, [path], Path(scratch), "the converted checkpoint")
    if why := _fault(found, model_class):
        raise AutoPruneError(f"the converted checkpoint is not the model ({why}): {UNPROVED}")
    return LoadProof(model_class, found["compared"], found["image_tokens"], found["seconds"])


def _fault(found: Mapping[str, Any], model_class: str) -> str | None:
    """Return the first thing that a proof may not find, or None."""
    if found["model_class"] != model_class:
        return f"it loads as {found['model_class']}"
    for key in ("missing", "unexpected", "mismatched", "different"):
        if found[key]:
            return f"{key} tensor {found[key][0]}"
    if found["imported_autoprune"]:
        return "the fresh process imported autoprune"
    if found["features"] != found["image_tokens"]:
        return f"{found['image_tokens']} image tokens for {found['features']} features"
    if not found["finite"]:
        return "its logits are not finite"
    return None
