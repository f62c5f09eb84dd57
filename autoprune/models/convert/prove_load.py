"""Load a converted checkpoint in this process, compare its tensors and ask about an image.

Run by path in a fresh interpreter, never imported by AutoPrune; imports nothing but torch,
transformers and what they need.

    python -I prove_load.py REQUEST.json

The findings are printed as one JSON object on the last line.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

sys.modules["autoprune"] = None  # type: ignore[assignment]  # importing it is an error from here on


def main() -> None:
    """Load the checkpoint of the request and print what was found."""
    import numpy as np
    import torch
    import transformers
    from PIL import Image

    with open(sys.argv[1]) as stream:
        request = json.load(stream)
    torch.set_num_threads(request["threads"])
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    started = time.perf_counter()
    directory = request["directory"]
    loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
        directory, dtype="auto", output_loading_info=True
    )
    model, info = loaded
    model.eval()
    different = []
    tensors = dict(model.named_parameters())
    for name, expected in request["digests"].items():
        data = tensors[name].detach().contiguous().view(torch.uint8).numpy()
        if hashlib.blake2b(data.data, digest_size=16).hexdigest() != expected:
            different.append(name)
    unknown = sorted(set(tensors) - set(request["digests"]))
    processor = transformers.AutoProcessor.from_pretrained(directory)
    image = Image.fromarray(np.full((40, 40, 3), 127, dtype=np.uint8))
    question = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    places = inputs["input_ids"] == model.config.image_token_id
    if model.dtype == torch.float16:
        model = model.to(torch.bfloat16)  # a model may overflow in float16 and still be right
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    with torch.no_grad():
        output = model(**inputs)
    found: dict[str, Any] = {
        "model_class": type(model).__name__,
        "missing": sorted(map(str, info["missing_keys"])),
        "unexpected": sorted(map(str, info["unexpected_keys"])),
        "mismatched": sorted(map(str, info["mismatched_keys"])),
        "different": different + unknown,
        "compared": len(request["digests"]),
        "image_tokens": int(places.sum()),
        "features": int(output.image_hidden_states.numel() // output.image_hidden_states.shape[-1]),
        "finite": bool(torch.isfinite(output.logits).all()),
        "imported_autoprune": any(
            module is not None and (name == "autoprune" or name.startswith("autoprune."))
            for name, module in sys.modules.items()
        ),
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
