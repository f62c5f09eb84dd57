"""Reload a checkpoint in this process and compare it with what its saver saw.

Run by path in a fresh interpreter, never imported by AutoPrune: it must work where AutoPrune
is not installed, so it imports nothing but torch, transformers and what they need, and makes
sure that nothing else imports AutoPrune either.

    python -I prove.py REQUEST.json ...

A request names the checkpoint, the reference tensors and the settings; the findings of each
are printed as one JSON object a line, the last lines of what is printed.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

sys.modules["autoprune"] = None  # type: ignore[assignment]  # importing it is an error from here on


def main() -> None:
    """Load the checkpoint of each request and print what was found."""
    findings = []
    for path in sys.argv[1:]:
        with open(path) as stream:
            findings.append(prove(json.load(stream)))
    for found in findings:
        print(json.dumps(found))


def prove(request: dict[str, Any]) -> dict[str, Any]:
    """Load one checkpoint and return what was found, as plain JSON values."""
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(request["threads"])
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tensors = load_file(request["tensors"])
    started = time.perf_counter()
    model, info = getattr(transformers, request["auto"]).from_pretrained(
        request["directory"],
        trust_remote_code=request["own_code"],
        dtype="auto",
        output_loading_info=True,
        attn_implementation=request["attn"],
    )
    model = model.to(request["device"]).eval()
    inputs = {
        name.removeprefix("inputs."): tensor.to(request["device"])
        for name, tensor in tensors.items()
        if name.startswith("inputs.")
    }
    with torch.no_grad():
        logits = model(**inputs).logits[inputs["attention_mask"].bool()].double().cpu()
        tokens = model.generate(**inputs, **request["generation"]).cpu()
    reference = tensors["logits"].double()
    found: dict[str, Any] = {
        "max_abs_diff": float((logits - reference).abs().max()),
        "scale": float(reference.abs().max()),
        "finite": bool(torch.isfinite(logits).all()),
        "missing": sorted(map(str, info["missing_keys"])),
        "unexpected": sorted(map(str, info["unexpected_keys"])),
        "mismatched": sorted(map(str, info["mismatched_keys"])),
        "tokens_equal": bool(torch.equal(tokens, tensors["tokens"])),
        "model_class": type(model).__name__,
        "expected_class": type(model).__module__.startswith("transformers.")
        is not request["own_code"],
        "processor": "equal",
    }
    kind = "AutoProcessor" if request["vision"] else "AutoTokenizer"
    processor = getattr(transformers, kind).from_pretrained(
        request["directory"], trust_remote_code=request["own_code"]
    )
    if getattr(processor, "chat_template", None) != request["chat_template"]:
        found["processor"] = "the chat template differs"
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer(request["text"])["input_ids"] != request["text_ids"]:
        found["processor"] = "the same text gives other tokens"
    if "asked" in request:
        if request["pil"]:
            processor.image_processor = transformers.AutoImageProcessor.from_pretrained(
                request["directory"], backend="pil"
            )
        count = sum(name.startswith("images.") for name in tensors)
        images = [[tensors[f"images.{place}"].numpy()] for place in range(count)]
        made = processor(images=images, return_tensors="pt", **request["asked"])
        for name, value in tensors.items():
            kind, _, own = name.partition(".")
            if kind == "made" and not (own in made and torch.equal(made[own], value)):
                found["processor"] = f"the same images and texts give other {own}"
    # So the saver can be sure that the stock classes and the checkpoint's own code did this.
    found["imported_autoprune"] = any(
        module is not None and (name == "autoprune" or name.startswith("autoprune."))
        for name, module in sys.modules.items()
    )
    found["seconds"] = time.perf_counter() - started
    return found


if __name__ == "__main__":
    main()
