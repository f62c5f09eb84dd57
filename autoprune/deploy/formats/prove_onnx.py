"""Run exported graphs in this process and compare them with what the model itself said.

Run by path in a fresh interpreter, never imported by AutoPrune: it uses the script that is
shipped beside the graphs, and neither AutoPrune nor torch.

    python -I prove_onnx.py REQUEST.json

A request names the directory and the reference; what was found is printed as one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

sys.modules["autoprune"] = None  # type: ignore[assignment]  # importing it is an error from here on
sys.modules["torch"] = None  # type: ignore[assignment]  # so is this
sys.dont_write_bytecode = True  # the directory is the user's


def main() -> None:
    """Compare the graphs of each request and print what was found."""
    for path in sys.argv[1:]:
        with open(path) as stream:
            request = json.load(stream)
        print(json.dumps(prove(request)))


def prove(request: dict[str, Any]) -> dict[str, Any]:
    """Run prompts and single steps and return the largest differences, as plain JSON values."""
    import numpy as np

    sys.path.insert(0, request["directory"])
    from run_onnx import Model  # type: ignore[import-not-found]

    model = Model(request["directory"], threads=request["threads"])
    arrays = np.load(request["arrays"])
    found: dict[str, Any] = {"prefill": 0.0, "steps": 0.0, "scale": 0.0, "finite": True}
    found["tokens_equal"] = True
    for case in request["cases"]:
        given = {
            name.partition(".")[2]: arrays[name]
            for name in arrays.files
            if name.startswith(f"{case}.")
        }
        mask, past = given["attention_mask"], None
        embeds = model.embed(given["input_ids"], given.get("pixel_values"))
        logits, past = model.decode(embeds, mask, past)
        real = mask.astype(bool)
        _note(found, "prefill", logits[real], given["logits"][real])
        for step in range(given["steps"].shape[1]):
            mask = np.concatenate([mask, np.ones((len(mask), 1), mask.dtype)], axis=1)
            logits, past = model.decode(model.embed(given["steps"][:, step : step + 1]), mask, past)
            _note(found, "steps", logits[:, 0], given["step_logits"][:, step])
        tokens = model.generate(
            given["input_ids"],
            given["attention_mask"],
            given.get("pixel_values"),
            max_new_tokens=given["tokens"].shape[1],
        )
        expected = given["tokens"][:, : tokens.shape[1]]
        found["tokens_equal"] &= bool((tokens == expected).all())
    return found


def _note(found: dict[str, Any], kind: str, made: Any, expected: Any) -> None:
    import numpy as np

    found[kind] = max(found[kind], float(np.abs(made - expected).max()))
    found["scale"] = max(found["scale"], float(np.abs(expected).max()))
    found["finite"] &= bool(np.isfinite(made).all())


if __name__ == "__main__":
    main()
