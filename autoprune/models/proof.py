"""The proof of a saved checkpoint: a fresh process that never imports AutoPrune reloads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
        processor: what the processor made of a fixed text and image.
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


def probe_inputs(model: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random inputs of a model: two rows, the second padded on the left, with images."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    vocabulary = int(text_config(config).vocab_size)
    image_id = int(getattr(config, "image_token_id", None) or 0)
    words = torch.randint(0, vocabulary, (2, 12), generator=generator)
    if image_id:
        words[words == image_id] = (image_id + 1) % vocabulary
    inputs: dict[str, torch.Tensor] = {}
    if wrapper_of(config).projector is not None:
        from autoprune.models.vision import vision_features

        size = config.vision_config.image_size
        pixels = torch.randn((2, 3, size, size), generator=generator).to(model.device)
        tokens = vision_features(model, pixels).shape[1]
        image = torch.full((2, tokens), image_id)
        words = torch.cat([words[:, :2], image, words[:, 2:]], dim=1)
        inputs["pixel_values"] = pixels.to(model.dtype)
    mask = torch.ones_like(words)
    words[1] = torch.cat([torch.zeros(1, dtype=torch.long), words[1, :-1]])
    mask[1, 0] = 0
    return {"input_ids": words, "attention_mask": mask, **inputs}


@torch.no_grad()
def reference_of(
    model: Any, processor: Any, inputs: Mapping[str, torch.Tensor] | None = None
) -> Reference:
    """Run a model and its processor and keep what they said, for :func:`prove_reload`.

    Args:
        model: as it is about to be saved.
        processor: its processor, or tokenizer.
        inputs: of the model, with an ``attention_mask``; None makes random ones.
    """
    was_training = model.training
    model.eval()
    chosen = dict(inputs) if inputs is not None else probe_inputs(model)
    on_device = {name: tensor.to(model.device) for name, tensor in chosen.items()}
    generation: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
    }
    if (image_id := getattr(model.config, "image_token_id", None)) is not None:
        generation["suppress_tokens"] = [image_id]  # a generated image would have no pixels
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
        found = _run(requests, Path(scratch))
    return [_judged(row, reference.dtype) for row, (_, reference) in zip(found, saved, strict=True)]


def _judged(found: dict[str, Any], dtype: torch.dtype) -> ReloadProof:
    why = _fault(found, TOLERANCE.get(dtype, 1e-2))
    if why:
        raise AutoPruneError(f"the saved checkpoint is not the model ({why}): nothing was written")
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
    processor = dict(reference.processor)
    for name in ("image", "pixels"):
        if name in processor:
            tensors[name] = processor.pop(name)
    save_file(tensors, scratch / "reference.safetensors")
    request = {
        "directory": str(directory),
        "tensors": str(scratch / "reference.safetensors"),
        "generation": reference.generation,
        "threads": torch.get_num_threads(),
        **reference.settings,
        **processor,
    }
    path = scratch / "request.json"
    path.write_text(json.dumps(request))
    return path


def _run(requests: Sequence[Path], scratch: Path) -> list[dict[str, Any]]:
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["HF_MODULES_CACHE"] = str(scratch / "modules")
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        [sys.executable, "-I", str(_SCRIPT), *map(str, requests)],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise AutoPruneError(
            f"the saved checkpoint does not load in a fresh process ({reason}): nothing was written"
        )
    return [json.loads(line) for line in done.stdout.strip().splitlines()[-len(requests) :]]


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
    """Return what a processor makes of a fixed text and image."""
    tokenizer = getattr(processor, "tokenizer", processor)
    made: dict[str, Any] = {
        "chat_template": getattr(processor, "chat_template", None),
        "text": _TEXT,
        "text_ids": tokenizer(_TEXT)["input_ids"],
    }
    if vision and type(processor.image_processor).__name__.endswith("Pil"):
        image = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
        pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        made["image"] = torch.from_numpy(image)
        made["pixels"] = torch.as_tensor(pixels).contiguous()
    return made
