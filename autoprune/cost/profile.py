"""What this machine can do, measured: ``autoprune profile``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import torch
from torch import nn

from autoprune.cost.deployment import deployment_of
from autoprune.cost.devices import DTYPES, Device
from autoprune.cost.machine import KEEPS, this_machine, titled
from autoprune.cost.timing import DecodeSteps, times
from autoprune.models.shape import spec_of

MIB = 2**20
BEYOND = 512 * MIB
"""Bytes that bandwidth is measured over: beyond the caches of any machine so far."""

WIDTHS = (512, 1024, 2048)
"""Columns of the narrower matrices that reading is measured at; the widest have 4,096."""


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that a copy beyond the caches reads and writes."""
    source = torch.ones(BEYOND // 2 // 4, device=device)
    target = torch.empty_like(source)
    return BEYOND / statistics.median(times(lambda: target.copy_(source), device, 7))


def reading_bandwidth(
    device: torch.device, side: int = 4096, dtype: torch.dtype = torch.float32
) -> float:
    """Return the bytes a second that products of a vector with matrices read beyond the caches.

    Args:
        device: to measure.
        side: rows and columns of each matrix.
        dtype: of matrices and vector.
    """
    count = max(2, BEYOND // (side * side * dtype.itemsize))
    matrices = [torch.full((side, side), 0.01, dtype=dtype, device=device) for _ in range(count)]
    vector = torch.full((1, side), 0.01, dtype=dtype, device=device)

    def read() -> None:
        for matrix in matrices:
            nn.functional.linear(vector, matrix)

    total = count * side * side * dtype.itemsize
    return total / statistics.median(times(read, device, 7))


def attention_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that one token's attention reads of a cache beyond the caches."""
    size, sets = (1, 16, 2048, 64), max(2, BEYOND // 2 // (2 * 16 * 2048 * 64 * 4))
    pairs = [
        (torch.full(size, 0.01, device=device), torch.full(size, 0.01, device=device))
        for _ in range(sets)
    ]
    query = torch.full((1, 16, 1, 64), 0.01, device=device)
    seen = torch.ones(1, 1, 1, size[2], dtype=torch.bool, device=device)

    def read() -> None:
        for key, value in pairs:
            nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)

    total = sets * 2 * 16 * 2048 * 64 * 4
    return total / statistics.median(times(read, device, 5))


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 1024) -> float:
    """Return the operations a second of a product of two square matrices."""
    left, right = (torch.full((side, side), 0.01, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / statistics.median(times(lambda: left @ right, device, 5))


def overheads(device: torch.device, layers: Iterable[int] = (2, 10)) -> tuple[float, float]:
    """Return what a decoder layer, and what a token, take beside reading and computing.

    Measured on layers of next to no weights: the slope over their number, and what is left.
    """
    from transformers import LlamaConfig

    few, many = layers
    found = {}
    for count in (few, many):
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=count,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        spec = spec_of(config)
        steps = DecodeSteps(config, spec, None, deployment_of(config, 16), "float32", device)
        found[count] = statistics.median(times(steps.step, device, 25, warm=5))
    slope = max(0.0, (found[many] - found[few]) / (many - few))
    return slope, max(0.0, found[few] - few * slope)


def profile(name: str, on_step: Callable[[str], None] = lambda said: None) -> Device:
    """Measure this machine and return it as a device: its GPU if it has one, else its CPU.

    Args:
        name: that it goes by.
        on_step: told what is measured next.
    """
    machine = this_machine()
    gpu, device = machine.device == "cuda", torch.device(machine.device)
    rounds: dict[str, list[float]] = {"copy": [], "read": [], "attend": []}
    compute = {}
    # Three rounds, apart from each other: what else the machine does comes and goes.
    for dtype in DTYPES[:3]:
        on_step(f"reading and copying {BEYOND // MIB} MiB, and multiplying in {dtype}")
        rounds["copy"].append(copy_bandwidth(device))
        rounds["read"].append(reading_bandwidth(device))
        rounds["attend"].append(attention_bandwidth(device))
        for side in WIDTHS:
            rounds.setdefault(f"{side}", []).append(reading_bandwidth(device, side))
        compute[dtype] = matmul_rate(device, getattr(torch, dtype), 4096 if gpu else 512)
    rates = {what: statistics.median(found) for what, found in rounds.items()}
    copied, bandwidth, attended = rates["copy"], rates["read"], rates["attend"]
    reading = {side: rates[f"{side}"] for side in WIDTHS} | {4096: bandwidth}
    on_step("decoding with layers of no weights")
    layer, step = overheads(device)
    return Device(
        name=name,
        title=titled(machine),
        kind="measured",
        memory=machine.memory,
        bandwidth=bandwidth,
        cache_bandwidth=attended,
        reading=reading,
        compute=compute,
        sources=(
            f"measured by autoprune profile with torch {torch.__version__}: products of a vector "
            f"with {BEYOND // MIB} MiB of matrices read {bandwidth / 1e9:.3g} GB/s (a copy moves "
            f"{copied / 1e9:.3g} GB/s), attention of one token over a cache, products of matrices, "
            "decode steps of empty layers",
        ),
        measured=True,
        installed=machine.installed,
        keeps=KEEPS,
        basis=f"{KEEPS:.0%} is left to the system (assumed)",
        layer_seconds=layer,
        step_seconds=step,
        threads=machine.threads,
    )
