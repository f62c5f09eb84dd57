"""Decode latency of whole layers once more, all sizes turn by turn in one process.

    python experiments/real_shapes/interleaved.py          # CPU shapes, 2 minutes, 5 GB

``run.py`` times one candidate after the other, minutes apart; on a machine that others use its
memory may have another speed by then. Here models of 0 to n layers take turns, step by step, so
that whatever the machine does, it does to all of them. Writes ``interleaved-cpu.json``.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from pathlib import Path

import torch
from decode import Decoder
from setting import MODELS, SCALES, machine, shape
from torch import nn

from autoprune.models.shape import model_class

HERE = Path(__file__).parent
ROUNDS = 15


def decoders(name: str) -> dict[int, Decoder]:
    """Return decoders of 0, 1, ... all layers of a shape, with random weights."""
    scale = SCALES["cpu"]
    config = shape(name, scale)
    found = {}
    for layers in range(config.text_config.num_hidden_layers + 1):
        own = copy.deepcopy(config)
        own.text_config.num_hidden_layers = max(layers, 1)
        if getattr(own.text_config, "layer_types", None):
            own.text_config.layer_types = own.text_config.layer_types[: max(layers, 1)]
        torch.set_default_dtype(torch.bfloat16)
        model = model_class(own)(own).eval()
        torch.set_default_dtype(torch.float32)
        if not layers:
            model.get_decoder().layers = nn.ModuleList()
        found[layers] = Decoder(model, scale.tokens, scale.steps, torch.device("cpu"))
    return found


@torch.no_grad()
def in_turns(found: dict[int, Decoder]) -> dict[int, list[float]]:
    """Return milliseconds of a decode step by number of layers, a round each."""
    times: dict[int, list[float]] = {layers: [] for layers in found}
    for decoder in found.values():
        decoder._fill()
    torch.set_num_threads(1)
    for _ in range(ROUNDS):
        for layers, decoder in found.items():
            decoder._rewind(decoder.tokens)
            decoder._step()
            started = time.process_time()
            decoder._step()
            times[layers].append(1000 * (time.process_time() - started))
    return times


def main() -> None:
    torch.manual_seed(0)
    results: dict[str, object] = {"machine": machine(torch.device("cpu"))}
    print("| shape | layers | decode, ms | forecast, ms | off by |\n|---|---|---|---|---|")
    for name in MODELS:
        times = in_turns(decoders(name))
        middle = {layers: statistics.median(values) for layers, values in times.items()}
        most = max(middle)
        results[name] = times
        for layers in list(middle)[1:-1]:
            ahead = middle[0] + layers * (middle[most] - middle[0]) / most
            off = middle[layers] / ahead - 1
            print(
                f"| {name} | {layers} of {most} | {middle[layers]:.2f} | {ahead:.2f} | {off:+.1%} |"
            )
    (HERE / "interleaved-cpu.json").write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
