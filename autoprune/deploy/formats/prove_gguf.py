"""Run a GGUF file by llama.cpp in this process and compare it with what the model itself said.

Run by path in a fresh interpreter, never imported by AutoPrune.

    python -I prove_gguf.py REQUEST.json

A request names the file, texts, and the log-probabilities behind them; what was found is printed
as one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

sys.modules["autoprune"] = None  # type: ignore[assignment]  # importing it is an error from here on


def main() -> None:
    """Compare the file of each request and print what was found."""
    for path in sys.argv[1:]:
        with open(path) as stream:
            request = json.load(stream)
        print(json.dumps(prove(request)))


def prove(request: dict[str, Any]) -> dict[str, Any]:
    """Return the largest differences of log-probabilities, as plain JSON values.

    A text is given to llama.cpp as text, so its tokenizer is compared as well; then the tokens
    that the model wrote are given as tokens, which runs them through the cache.
    """
    import numpy as np
    import xllamacpp

    arrays = np.load(request["arrays"])
    server = _server(xllamacpp, request)
    found: dict[str, Any] = {"prefill": 0.0, "steps": 0.0, "scale": 0.0, "tokens": "equal"}
    for place, text in enumerate(request["texts"]):
        expected, ids = arrays[f"{place}.logprobs"], arrays[f"{place}.ids"].tolist()
        said, read = _ask(server, text, request["letter"], expected.shape[1])
        if read != len(ids):
            found["tokens"] = f"{read} tokens where the model's own tokenizer makes {len(ids)}"
            return found
        _note(found, "prefill", said, expected[0])
        # What was written is fed back a token at a time: the prompt stays in the cache.
        for step in range(1, len(expected)):
            ids.append(int(arrays[f"{place}.written"][step - 1]))
            said, _ = _ask(server, ids, request["letter"], expected.shape[1])
            _note(found, "steps", said, expected[step])
    return found


def _server(library: Any, request: dict[str, Any]) -> Any:
    settings = library.CommonParams()
    settings.model.path = request["file"]
    settings.n_ctx = request["context"]
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = request["threads"]
    settings.cpuparams_batch.n_threads = request["threads"]
    settings.cache_type_k = settings.cache_type_v = library.ggml_type.GGML_TYPE_F32
    disabled = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.flash_attn_type = disabled
    settings.warmup = False
    settings.swa_full = True
    settings.verbosity = -1
    return library.Server(settings)


def _ask(server: Any, prompt: Any, letter: int, vocabulary: int) -> tuple[Any, int]:
    """Return log-probabilities [vocabulary] behind a prompt, and how many tokens that has."""
    import numpy as np

    answer = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": 1,
            # A token that is half a letter would come without its log-probabilities, so one that
            # is a letter is forced. They are of the logits before that.
            "logit_bias": [[letter, 1000.0]],
            "temperature": 0,
            "n_probs": vocabulary,
            "cache_prompt": True,
        }
    )
    if "choices" not in answer:
        raise RuntimeError(f"llama.cpp answered {str(answer)[:200]}")
    said = np.full(vocabulary, np.nan)
    for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        said[entry["id"]] = entry["logprob"]
    return said, int(answer["usage"]["prompt_tokens"])


def _note(found: dict[str, Any], kind: str, made: Any, expected: Any) -> None:
    """Compare the log-probabilities; those that llama.cpp does not list have to be tiny."""
    import numpy as np

    listed = np.isfinite(made)
    if not listed.any() or (expected[~listed] > -30).any():
        found[kind] = float("inf")
        return
    found[kind] = max(found[kind], float(np.abs(made[listed] - expected[listed]).max()))
    found["scale"] = max(found["scale"], float(np.abs(expected[listed]).max()))


if __name__ == "__main__":
    main()
