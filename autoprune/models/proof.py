"""The proof of a saved checkpoint: a fresh process that never imports AutoPrune reloads it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from autoprune.errors import AutoPruneError
from autoprune.models.families import text_config, wrapper_of
from autoprune.models.fresh import UNPROVED, run_fresh

NEW_TOKENS = 8
# Largest difference of logits relative to the largest logit.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 1e-2,
}
_TEXT = "what is the digit on the left ? 0 1 2 3"
_SCRIPT = Path(__file__).with_name("prove.py")


@dataclass(frozen=True)
class Reference:
    """What a model said before it was saved.

    Attributes:
        inputs: of the forward pass.
        logits: at the positions that are no padding, [positions, vocabulary].
        tokens: greedily generated from the same inputs.
        generation: settings of that generation.
        processor: what the processor made of fixed texts and images (``tensors``), and what it
            was asked (``request``).
        dtype: of the weights.
        settings: how the model was run: attention implementation, device, auto class.
    """

    inputs: dict[str, torch.Tensor]
    logits: torch.Tensor
    tokens: torch.Tensor
    generation: dict[str, Any]
    processor: dict[str, Any]
    dtype: torch.dtype
    settings: dict[str, Any]


@dataclass(frozen=True)
class ReloadProof:
    """What a fresh process found when it loaded a checkpoint.

    Attributes:
        max_abs_diff: largest difference of a logit.
        scale: largest logit of the reference.
        missing: tensors that the checkpoint lacks; empty in any proof that was passed.
        unexpected: tensors that found no place; empty in any proof that was passed.
        seconds: that loading and comparing took, without the start of the process.
        model_class: the class that was loaded.
    """

    max_abs_diff: float
    scale: float
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    seconds: float
    model_class: str


def probe_inputs(model: Any, processor: Any = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random inputs of a model: two rows, the second padded on the left, with images.

    Images go through the processor, which alone knows how many tokens they become and what else
    the model wants to know of them.

    Args:
        model: whose inputs they are.
        processor: its processor; not needed for a plain language model.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    if wrapper_of(config).projector is not None:
        return _processed_probe(processor, seed)
    words = torch.randint(0, int(text_config(config).vocab_size), (2, 12), generator=generator)
    mask = torch.ones_like(words)
    words[1] = torch.cat([torch.zeros(1, dtype=torch.long), words[1, :-1]])
    mask[1, 0] = 0
    return {"input_ids": words, "attention_mask": mask}


def _processed_probe(processor: Any, seed: int) -> dict[str, torch.Tensor]:
    """Return what a processor makes of two random images with text, the second text shorter."""
    made = processor(**_asked(processor, seed), return_tensors="pt")
    return {
        name: value
        for name, value in made.items()
        if isinstance(value, torch.Tensor) and name != "labels"
    }


def _asked(processor: Any, seed: int = 0) -> dict[str, Any]:
    """Return two texts with an image each, and how to process them."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (48, 56)]
    padded = processor.tokenizer.pad_token is not None
    shorter = _TEXT.rpartition(" ")[0] if padded else _TEXT
    return {
        "text": [f"{processor.image_token}{text}" for text in (_TEXT, shorter)],
        "images": [[image] for image in images],
        "padding": padded,
        "padding_side": "left",
    }


@torch.no_grad()
def reference_of(
    model: Any, processor: Any, inputs: Mapping[str, torch.Tensor] | None = None
) -> Reference:
    """Run a model and its processor and keep what they said, for :func:`prove_reload`.

    Args:
        model: as it is about to be saved.
        processor: its processor, or tokenizer.
        inputs: of the model, with an ``attention_mask``; None makes random ones, of the weights'
            dtype where they are floats.
    """
    was_training = model.training
    model.eval()
    chosen = dict(inputs) if inputs is not None else probe_inputs(model, processor)
    if inputs is None:
        dtype = model.dtype
        chosen = {n: t.to(dtype) if t.is_floating_point() else t for n, t in chosen.items()}
    on_device = {name: tensor.to(model.device) for name, tensor in chosen.items()}
    generation: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
    }
    marks = (getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video"))
    if silent := [mark for mark in marks if mark is not None]:
        generation["suppress_tokens"] = silent  # a generated image would have no pixels
    logits = model(**on_device).logits[on_device["attention_mask"].bool()]
    tokens = model.generate(**on_device, **generation)
    model.train(was_training)
    vision = wrapper_of(model.config).projector is not None
    auto = "AutoModelForImageTextToText" if vision else "AutoModelForCausalLM"
    return Reference(
        inputs={name: tensor.cpu().contiguous() for name, tensor in chosen.items()},
        logits=logits.float().cpu() if logits.dtype != torch.float64 else logits.cpu(),
        tokens=tokens.cpu(),
        generation=generation,
        processor=_processed(processor, vision),
        dtype=model.dtype,
        settings={
            "attn": model.get_decoder().config._attn_implementation,
            "device": str(model.device),
            "auto": auto,
            "vision": vision,
            "own_code": bool(getattr(text_config(model.config), "autoprune", None)),
        },
    )


def prove_reload(directory: str | Path, reference: Reference) -> ReloadProof:
    """Reload a checkpoint in a fresh process and compare it with ``reference``.

    The process runs elsewhere, with an empty cache of remote code, without the environment's
    Python paths, and cannot import AutoPrune. It runs a checkpoint's own code only where the
    model's configuration records per-layer shapes; else stock classes must do.

    Raises:
        AutoPruneError: if it does not load, any tensor is missing, left over or of another
            shape, or logits, generated tokens or the processor differ.
    """
    return prove_reloads([(Path(directory), reference)])[0]


def prove_reloads(saved: Sequence[tuple[Path, Reference]]) -> list[ReloadProof]:
    """Prove several checkpoints in one fresh process, see :func:`prove_reload`."""
    with tempfile.TemporaryDirectory(prefix="autoprune-proof-") as scratch:
        requests = [
            _request(directory.absolute(), reference, Path(scratch) / str(place))
            for place, (directory, reference) in enumerate(saved)
        ]
        found = run_fresh(_SCRIPT, requests, Path(scratch), "the saved checkpoint")
    return [_judged(row, reference.dtype) for row, (_, reference) in zip(found, saved, strict=True)]


def _judged(found: dict[str, Any], dtype: torch.dtype) -> ReloadProof:
    why = _fault(found, TOLERANCE.get(dtype, 1e-2))
    if why:
        raise AutoPruneError(f"the saved checkpoint is not the model ({why}): {UNPROVED}")
    return ReloadProof(
        max_abs_diff=found["max_abs_diff"],
        scale=found["scale"],
        missing=tuple(found["missing"]),
        unexpected=tuple(found["unexpected"]),
        seconds=found["seconds"],
        model_class=found["model_class"],
    )


def _request(directory: Path, reference: Reference, scratch: Path) -> Path:
    """Write down what the fresh process is to do, and return where."""
    scratch.mkdir()
    tensors = {f"inputs.{name}": tensor for name, tensor in reference.inputs.items()}
    tensors["logits"] = reference.logits.contiguous()
    tensors["tokens"] = reference.tokens.contiguous()
    tensors.update(reference.processor["tensors"])
    save_file(tensors, scratch / "reference.safetensors")
    request = {
        "directory": str(directory),
        "tensors": str(scratch / "reference.safetensors"),
        "generation": reference.generation,
        "threads": torch.get_num_threads(),
        **reference.settings,
        **reference.processor["request"],
    }
    path = scratch / "request.json"
    path.write_text(json.dumps(request))
    return path


def _fault(found: Mapping[str, Any], tolerance: float) -> str | None:
    """Return the first thing that a proof may not find, or None."""
    for key in ("missing", "unexpected", "mismatched"):
        if found[key]:
            return f"{key} tensor {found[key][0]}"
    if found["imported_autoprune"]:
        return "the fresh process imported autoprune"
    if not found["expected_class"]:
        return f"it loaded as {found['model_class']}, which is not the class it was saved as"
    if not found["finite"]:
        return "its logits are not finite"
    if found["max_abs_diff"] > tolerance * found["scale"]:
        return f"logits differ by {found['max_abs_diff']:.2e} of {found['scale']:.2e}"
    if not found["tokens_equal"]:
        return "it generates other tokens"
    if found["processor"] != "equal":
        return f"its processor: {found['processor']}"
    return None


def _processed(processor: Any, vision: bool) -> dict[str, Any]:
    """Return what a processor makes of fixed texts and images, and what it was asked."""
    tokenizer = getattr(processor, "tokenizer", processor)
    request: dict[str, Any] = {
        "chat_template": getattr(processor, "chat_template", None),
        "text": _TEXT,
        "text_ids": tokenizer(_TEXT)["input_ids"],
    }
    if not vision or not hasattr(processor, "image_processor"):
        return {"request": request, "tensors": {}}
    asked = _asked(processor)
    images = [torch.from_numpy(image) for (image,) in asked.pop("images")]
    # A processor of another backend rounds pixels otherwise, so it is asked for by its kind.
    request["pil"] = type(processor.image_processor).__name__.endswith("Pil")
    request["asked"] = asked
    tensors = {f"images.{place}": image for place, image in enumerate(images)}
    for name, value in _processed_probe(processor, 0).items():
        tensors[f"made.{name}"] = value.contiguous()
    return {"request": request, "tensors": tensors}
