"""Timing on this machine: decode steps of a model of real shapes, and what a machine can do.

On a CPU with one thread what is timed is that thread's own time, which does not count while others
run; else it is the clock on the wall. Times are medians.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.cost.deployment import Deployment, Kept, placed
from autoprune.cost.devices import DTYPES, HERE, Device
from autoprune.cost.latency import Latency, measured
from autoprune.cost.machine import KEEPS, this_machine, titled
from autoprune.cost.memory import memory_of
from autoprune.errors import AutoPruneError
from autoprune.models.arrays import fill
from autoprune.models.families import family_of, text_config
from autoprune.models.layers import resize_layers
from autoprune.models.precision import precision_of
from autoprune.models.quantise import quantise
from autoprune.models.shape import BackboneSpec

MIB = 2**20
FEWEST, ENOUGH = 6, 5.0
"""Runs that are timed at the least, as the ends of six hold the median at 95 %; and seconds after
which no further ones are."""

BEYOND = 512 * MIB
"""Bytes that bandwidth is measured over: beyond the caches of any machine so far."""

WIDTHS = (512, 1024, 2048)
"""Columns of the narrower matrices that reading is measured at; the widest have 4,096."""

_TOKENS, _VOCABULARY = 64, 16


class DecodeSteps:
    """A decoder of real shapes with random weights, its cache full, and a head behind it.

    Args:
        config: of the dense model.
        spec: of the dense model.
        pruned: what is kept of it.
        deployment: the prompt that the cache holds.
        precision: of the weights, a key of ``models.precision.PRECISIONS``; the cache is in the
            dtype that is computed in.
        device: where it runs.

    Raises:
        AutoPruneError: for an unknown precision, or where its library is missing.
    """

    def __init__(
        self,
        config: Any,
        spec: BackboneSpec,
        pruned: Kept,
        deployment: Deployment,
        precision: str,
        device: torch.device,
    ) -> None:
        from transformers import AutoModel, StaticCache

        dtype: torch.dtype = getattr(torch, precision_of(precision).dtype)
        rows = tuple(placed(spec, pruned))
        text = copy.deepcopy(text_config(config))
        text.vocab_size = _VOCABULARY
        text.pad_token_id = text.bos_token_id = text.eos_token_id = None
        for name in family_of(config).layer_lists:
            if listed := getattr(text, name, None):
                setattr(text, name, [listed[place] for place, _ in rows])
        text.num_hidden_layers = len(rows)
        text.autoprune = {
            "family": family_of(config).to_dict(),
            "layers": [[s.heads, s.kv_heads, s.channels] for _, s in rows],
        }
        with torch.device("meta"):
            model = AutoModel.from_config(text, dtype=dtype)
        resize_layers(model)
        values = dict(AutoModel.from_config(_tiny(text)).named_buffers())
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.model = fill(
            model,
            lambda name: torch.full(shapes[name], 0.01) if name in shapes else values[name],
            dtype,
            device,
        )
        quantise(self.model, precision)
        hidden = int(text.hidden_size)
        self.head = nn.Linear(
            hidden, deployment.head_params // hidden, bias=False, dtype=dtype, device=device
        )
        room = deployment.positions + _TOKENS
        self.cache = StaticCache(config=text, max_cache_len=room)
        for index, (_, shape) in enumerate(rows):
            size = (1, shape.kv_heads or 1, deployment.positions, spec.head_dim)
            size = size if shape.heads else (*size[:3], 1)
            filled = torch.full(size, 0.01, dtype=dtype, device=device)
            self.cache.update(filled, filled, index)
        self.state = torch.full((1, 1, hidden), 0.01, dtype=dtype, device=device)
        self.place = torch.full((1, 1), deployment.positions, device=device)
        seen = torch.arange(room, device=device) <= deployment.positions
        self.mask: Any = seen[None, None, None]
        if getattr(text, "layer_types", None) and len(set(text.layer_types)) > 1:
            self.mask = None  # kinds of layers have masks of their own

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Decode one token; return the logits."""
        layers: list[Any] = self.cache.layers
        for layer in layers:
            if layer.is_initialized and hasattr(layer, "cumulative_length"):
                length = layer.cumulative_length
                at = int(self.place)
                if isinstance(length, torch.Tensor):
                    length.fill_(at)
                else:
                    layer.cumulative_length = at
        states = self.model(
            inputs_embeds=self.state,
            attention_mask=self.mask,
            position_ids=self.place,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


def _tiny(text: Any) -> Any:
    """Return a configuration of the same rotary embeddings with next to no weights."""
    tiny = copy.deepcopy(text)
    del tiny.autoprune
    tiny.num_hidden_layers, tiny.intermediate_size = 1, 8
    if getattr(tiny, "layer_types", None):  # each kind has angles of its own
        tiny.layer_types = list(dict.fromkeys(tiny.layer_types))
        tiny.num_hidden_layers = len(tiny.layer_types)
    return tiny


def measure_latency(
    config: Any,
    spec: BackboneSpec,
    pruned: Kept,
    deployment: Deployment,
    precision: str = "float32",
    *,
    device: str | None = None,
    threads: int = 0,
    repeats: int = 33,
) -> Latency:
    """Return the time of a decoded token on this machine: the median, and its interval.

    The model has the shapes that are kept and weights that are made up: they take as long to
    multiply as any others, and are at hand for every plan.

    Args:
        config: of the dense model.
        spec: of the dense model.
        pruned: what is kept of it.
        deployment: the prompt that the cache holds.
        precision: of the weights, a key of ``models.precision.PRECISIONS``.
        device: as torch names it; None: the GPU if there is one, else the CPU.
        threads: to compute with on a CPU; 0: as many as torch does here.
        repeats: steps that are timed; fewer, six at the least, where they take long.

    Raises:
        AutoPruneError: it does not fit the memory that is free.
    """
    machine = this_machine()
    where = torch.device(machine.device if device is None else device)
    if where.type == machine.device:
        taken = memory_of(spec, pruned, precision, deployment)
        if (needed := taken.weights + taken.cache) > machine.free:
            raise AutoPruneError(
                f"a model of {needed / 2**30:.3g} GiB cannot be timed on this machine, where "
                f"{machine.free / 2**30:.3g} GiB are free: end other programs, or plan for a "
                "device by its name"
            )
    with computing_on(threads):
        steps = DecodeSteps(config, spec, pruned, deployment, precision, where)
        found = times(steps.step, where, repeats, enough=ENOUGH)
    return measured(found, HERE, precision_of(precision).dtype)


@contextmanager
def computing_on(threads: int) -> Iterator[None]:
    """Compute on so many threads of a CPU; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def times(
    work: Callable[[], Any],
    device: torch.device,
    repeats: int,
    warm: int = 2,
    enough: float = math.inf,
) -> list[float]:
    """Return the seconds of each of ``repeats`` runs of ``work``, behind ``warm`` others.

    After ``enough`` seconds there are no more runs than :data:`FEWEST`.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    found: list[float] = []
    for turn in range(warm + repeats):
        if len(found) >= FEWEST and sum(found) > enough:
            break
        _wait(device)
        started = clock()
        work()
        _wait(device)
        if turn >= warm:
            found.append(clock() - started)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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

    from autoprune.cost.deployment import deployment_of
    from autoprune.models.shape import spec_of

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
