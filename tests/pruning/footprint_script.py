"""Run by test_footprint in a fresh process: what work on a model of real width holds.

    python footprint_script.py pass GRAPH TOKENS BATCH
    python footprint_script.py save DIRECTORY
    python footprint_script.py surgery DIRECTORY

Prints one JSON object of bytes. The baseline is taken after the same work on a tiny model, which
has loaded what libraries load late.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.models import tiny_model
from support.one_graph import one_graph
from support.samples import sample_set
from transformers import LlamaConfig

from autoprune.data.encoding import EncodedSet
from autoprune.models.arrays import fill, from_arrays, state_arrays
from autoprune.models.memory import peak_memory
from autoprune.models.shape import meta_model, spec_of
from autoprune.models.source import weight_source
from autoprune.pruning import importance as room
from autoprune.pruning.footprint import (
    gradient_bytes,
    importance_peak,
    surgery_peak,
    weight_bytes,
)
from autoprune.pruning.plan import LayerPlan, PruningPlan, dense_plan
from autoprune.pruning.surgery import prune

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


def baseline() -> int:
    with peak_memory("cpu") as base:
        pass
    return base.bytes


def measured_pass(graph: str, tokens: int, batch: int) -> dict[str, int]:
    room.measure(tiny_model().to(torch.bfloat16), sample_set(), range(5))
    base = baseline()
    spec = spec_of(config())
    model = random_model()
    if graph == "one graph":
        room.blockwise = one_graph
    found = room.measure(model, rows(tokens), np.arange(ROWS), batch_size=batch)
    return {
        "weights": weight_bytes(spec, 2),
        "gradients": gradient_bytes(spec),
        "forecast": importance_peak(spec, 2, tokens, batch),
        "peak": found.peak_bytes - base,
    }


def measured_surgery(directory: Path) -> dict[str, int]:
    spec, dense = spec_of(config()), config()
    half = tuple(range(0, 5504, 2))
    plan = PruningPlan(
        "llama",
        spec.identity,
        len(spec.layers),
        spec.q_per_group,
        tuple(LayerPlan(index, tuple(range(8)), half) for index in range(4)),
    )
    tiny = tiny_model().to(torch.bfloat16)
    prune(tiny.config, state_arrays(tiny), dense_plan(spec_of(tiny)))
    weight_source(directory, dense, torch.bfloat16)
    base = baseline()
    with peak_memory("cpu") as read:
        source = weight_source(directory, dense, torch.bfloat16)
        assert source is not None
        model = from_arrays(dense, source)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    del model
    between = baseline()
    with peak_memory("cpu") as cut:
        pruned = prune(dense, source, plan)
    return {
        "weights": weights,
        "load": read.bytes - base,
        "kept": sum(p.numel() * p.element_size() for p in pruned.parameters()),
        "surgery": cut.bytes - between,
        "forecast": surgery_peak(spec, spec.params_of(plan.shapes), 2, 128),
    }


def main() -> None:
    torch.set_num_threads(1)
    what, *given = sys.argv[1:]
    if what == "pass":
        print(json.dumps(measured_pass(given[0], int(given[1]), int(given[2]))))
    elif what == "save":
        random_model().save_pretrained(given[0])
        print("{}")
    else:
        print(json.dumps(measured_surgery(Path(given[0]))))


if __name__ == "__main__":
    main()
