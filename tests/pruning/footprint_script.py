"""Run by test_footprint in a fresh process: what a pass over a model of real width holds.

    python footprint_script.py MODE TOKENS BATCH

Prints one JSON object. The baseline is taken after a pass over a tiny model, which has loaded
what libraries load late.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from support.models import tiny_model
from support.samples import sample_set
from transformers import LlamaConfig

from autoprune.data.encoding import EncodedSet
from autoprune.models.arrays import fill
from autoprune.models.memory import peak_memory
from autoprune.models.shape import meta_model, spec_of
from autoprune.pruning import importance as room
from autoprune.pruning.footprint import gradient_bytes, importance_peak, weight_bytes

ROWS, ANSWERS = 4, 5


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=4,
        num_attention_heads=16,
        max_position_embeddings=1024,
    )


def random_model() -> Any:
    model = meta_model(config())
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)

    def values(name: str) -> torch.Tensor:
        if name not in shapes:  # the rotary frequencies, which are no matter here
            return torch.ones(64)
        if "norm" in name:
            return torch.ones(shapes[name], dtype=torch.bfloat16)
        empty = torch.empty(shapes[name], dtype=torch.bfloat16)
        return empty.normal_(std=0.02, generator=generator)

    return fill(model, values)


def rows(tokens: int) -> EncodedSet:
    ids = np.random.default_rng(0).integers(5, 120, ROWS * tokens).astype(np.int32)
    answers = np.tile(np.arange(tokens) >= tokens - ANSWERS, ROWS)
    return EncodedSet(
        input_ids=ids,
        labels=np.where(answers, ids, -100).astype(np.int32),
        segments=np.ones(ROWS * tokens, np.int32),
        positions=np.tile(np.arange(tokens, dtype=np.int32), ROWS),
        offsets=np.arange(ROWS + 1) * tokens,
        answer_offsets=np.arange(ROWS + 1) * ANSWERS,
        samples=np.arange(ROWS),
        image_rows=np.zeros((ROWS, 2), np.int64),
        pixel_values=None,
        ring=np.arange(ROWS) / ROWS,
        strata=np.zeros(ROWS, np.int64),
        packed=False,
        image_token_id=-1,
        pad_token_id=0,
    )


def main() -> None:
    mode, tokens, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    room.measure(tiny_model().to(torch.bfloat16), sample_set(), range(5))
    with peak_memory("cpu") as base:
        pass
    spec = spec_of(config())
    model = random_model()
    if mode == "one graph":
        room.blockwise = lambda layers, blocks, resident=None: nullcontext()
    found = room.measure(model, rows(tokens), np.arange(ROWS), batch_size=batch)
    print(
        json.dumps(
            {
                "weights": weight_bytes(spec, 2),
                "gradients": gradient_bytes(spec),
                "forecast": importance_peak(spec, 2, tokens, batch),
                "peak": found.peak_bytes - base.bytes,
            }
        )
    )


if __name__ == "__main__":
    main()
