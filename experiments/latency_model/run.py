"""Modelled against measured decode steps on this machine, shape by shape.

The machine is profiled first; nothing is fitted on the shapes that are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from autoprune.cost.deployment import deployment_of
from autoprune.cost.latency import Roofline
from autoprune.cost.memory import memory_of
from autoprune.cost.profile import copy_bandwidth, profile, reading_bandwidth
from autoprune.cost.timing import measure_latency
from autoprune.models.shape import BackboneSpec, LayerShape, spec_of

HERE = Path(__file__).parent

# hidden, layers, heads, key/value heads, MLP channels
SIZES = {
    "hidden 768": (768, 6, 12, 12, 3072),
    "hidden 896": (896, 24, 14, 2, 4864),
    "hidden 2048": (2048, 6, 32, 8, 8192),
    "hidden 4096": (4096, 2, 32, 32, 11008),
}
STEADY = 0.15


@dataclass(frozen=True)
class Case:
    size: str
    cut: str
    context: int


def cases() -> Iterator[Case]:
    for size in SIZES:
        for cut, context in (("dense", 1024), ("half the layers", 1024), ("half the widths", 1024)):
            yield Case(size, cut, context)
    for size in ("hidden 896", "hidden 2048"):
        yield Case(size, "dense", 8192)
    yield Case("hidden 2048", "uneven widths", 4096)


def config_of(size: str) -> Any:
    hidden, layers, heads, groups, channels = SIZES[size]
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=channels,
        max_position_embeddings=32768,
    )


def shapes_of(spec: BackboneSpec, cut: str) -> list[LayerShape]:
    gone = LayerShape(0, 0, 0)

    def share(shape: LayerShape, part: float) -> LayerShape:
        groups = max(1, round(part * shape.kv_heads))
        ratio = shape.heads // shape.kv_heads
        return LayerShape(groups * ratio, groups, round(part * shape.channels / 64) * 64)

    count = len(spec.layers)
    return {
        "dense": list(spec.layers),
        "half the layers": [s if i < count // 2 else gone for i, s in enumerate(spec.layers)],
        "half the widths": [share(s, 0.5) for s in spec.layers],
        "uneven widths": [
            share(s, 0.25 + 0.75 * i / (count - 1)) for i, s in enumerate(spec.layers)
        ],
    }[cut]


def row_of(case: Case, machine: Any, copied: float, dtype: str) -> dict[str, Any]:
    """One shape: both models, what was measured, and whether the machine stayed as it was."""
    config = config_of(case.size)
    spec = spec_of(config)
    shapes = shapes_of(spec, case.cut)
    prompt = deployment_of(config, case.context)
    free = {"layer_seconds": 0.0, "step_seconds": 0.0, "cache_bandwidth": 0.0, "reading": {}}
    plain, second = (
        replace(machine, bandwidth=copied, **free),
        replace(machine, cache_bandwidth=0.0, reading={}),
    )
    row = {
        "size": case.size,
        "cut": case.cut,
        "context": case.context,
        "weights": memory_of(spec, shapes, dtype, prompt).weights,
        "cache": memory_of(spec, shapes, dtype, prompt).cache,
        "first": Roofline(spec, prompt, plain).of(shapes, dtype).seconds,
        "second": Roofline(spec, prompt, second).of(shapes, dtype).seconds,
        "modelled": Roofline(spec, prompt, machine).of(shapes, dtype).seconds,
    }
    device = torch.device("cpu")
    for turn in range(4):  # again where the machine changed meanwhile
        before = reading_bandwidth(device)
        found = measure_latency(config, spec, shapes, prompt, dtype, device="cpu")
        after = reading_bandwidth(device)
        row |= {"measured": found.seconds, "low": found.low, "high": found.high}
        row |= {"yardstick": statistics.mean((before, after)), "tries": turn + 1}
        if abs(after / before - 1) < STEADY:
            break
    return row


def main() -> None:
    """Profile, compare, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "rows.jsonl")
    parser.add_argument("--only", type=int, help="so many cases, to try it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine, copied = profile("here"), copy_bandwidth(torch.device("cpu"))
    rows: list[dict[str, Any]] = [{"machine": machine.to_dict(), "copy": copied}]
    for case in list(cases())[: args.only]:
        row = row_of(case, machine, copied, "float32")
        rows.append(row)
        print(json.dumps(row), flush=True)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
