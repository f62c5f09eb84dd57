"""Compare the libraries that could quantise what a search finds: what they store, and who reads it.

Needs both libraries, which the project itself does not (bitsandbytes is not a dependency):

    uv pip install --target /tmp/bnb --no-deps bitsandbytes==0.50.2
    PYTHONPATH=/tmp/bnb python experiments/quantisation_library/run.py

Writes results.csv beside this file. Runs on a CPU in under a minute.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TorchAoConfig,
)
from transformers.utils import logging

from autoprune.models.quantise import quantise

HERE = Path(__file__).parent
# (hidden, channels): widths as pruning leaves them, from round to odd.
WIDTHS = [(128, 256), (128, 192), (128, 96), (128, 80), (128, 40), (128, 27)]


def model_of(hidden: int, channels: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=channels,
        num_hidden_layers=2,
        num_attention_heads=8,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


def by_config(config: Any) -> Callable[[Any, Path], Any]:
    """Quantise as transformers does: on loading a plain checkpoint."""

    def make(model: Any, folder: Path) -> Any:
        model.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, dtype=torch.float32
        ).eval()

    return make


def by_autoprune(precision: str) -> Callable[[Any, Path], Any]:
    def make(model: Any, folder: Path) -> Any:
        quantise(model, precision)
        return model

    return make


def formats() -> dict[str, tuple[str, Callable[[Any, Path], Any]]]:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    skip = ["lm_head"]
    return {
        "int8, rows": (
            "torchao",
            by_config(TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=skip)),
        ),
        "int4, groups of 32": (
            "torchao",
            by_config(
                TorchAoConfig(Int4WeightOnlyConfig(group_size=32), modules_to_not_convert=skip)
            ),
        ),
        "autoprune's int8": ("torchao", by_autoprune("int8")),
        "autoprune's int4 (NVFP4)": ("torchao", by_autoprune("int4")),
        "LLM.int8()": (
            "bitsandbytes",
            by_config(BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)),
        ),
        "NF4, groups of 64": (
            "bitsandbytes",
            by_config(
                BitsAndBytesConfig(
                    load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skip
                )
            ),
        ),
    }


@torch.no_grad()
def measure(make: Callable[[Any, Path], Any], hidden: int, channels: int) -> dict[str, Any]:
    """Quantise, run, save and reload one model; ``what`` says how far that went."""
    words = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    plain = model_of(hidden, channels)
    reference = plain(words).logits
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            model = make(plain, Path(scratch) / "plain")
            before = Path(scratch) / "before"
            model.save_pretrained(before)
            row["bits"] = 8 * linear_bytes(before) / linear_weights(hidden, channels)
            logits = model(words).logits
            row["logits_off"] = float((logits - reference).norm() / reference.norm())
            row["reload_off"] = reload_off(before, words, logits)
            after = Path(scratch) / "after"
            model.save_pretrained(after)
            row["reload_off_saved_after_a_pass"] = reload_off(after, words, logits)
            return {"what": "works", **row}
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            return {"what": f"{type(error).__name__}: {lines[0][:90]}", **row}


def reload_off(folder: Path, words: torch.Tensor, logits: torch.Tensor) -> float:
    again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return float((again(words).logits - logits).abs().max() / logits.abs().max())


def linear_bytes(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    return sum(t.numel() * t.element_size() for n, t in tensors.items() if "_proj" in n)


def linear_weights(hidden: int, channels: int) -> int:
    linears = [m for m in model_of(hidden, channels).model.modules() if isinstance(m, nn.Linear)]
    return sum(m.weight.numel() for m in linears)


def import_seconds(library: str) -> float:
    code = "import torch, transformers, time; t = time.time(); import {0}; print(time.time() - t)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(library)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    logging.set_verbosity(50)
    logging.disable_progress_bar()
    rows = []
    for name, (library, make) in formats().items():
        for hidden, channels in WIDTHS:
            start = time.perf_counter()
            found = measure(make, hidden, channels)
            row = {"library": library, "format": name, "hidden": hidden, "channels": channels}
            rows.append({**row, **found})
            print(rows[-1], f"{time.perf_counter() - start:.1f} s", flush=True)
    print({library: round(import_seconds(library), 2) for library in ("torchao", "bitsandbytes")})
    fields = ["library", "format", "hidden", "channels", "what", "bits", "logits_off"]
    fields += ["reload_off", "reload_off_saved_after_a_pass"]
    with (HERE / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
