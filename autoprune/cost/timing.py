"""Timing on this machine: decode steps of a model of real shapes.

On a CPU with one thread what is timed is that thread's own time, which does not count while others
run; else it is the clock on the wall. Times are medians.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.amounts import BYTES, text_in
from autoprune.cost.deployment import Deployment, Kept, placed
from autoprune.cost.devices import HERE
from autoprune.cost.latency import Latency, measured, middle
from autoprune.cost.machine import this_machine
from autoprune.cost.memory import memory_of
from autoprune.errors import AutoPruneError
from autoprune.models.arrays import fill
from autoprune.models.families import family_of, text_config
from autoprune.models.layers import resize_layers
from autoprune.models.precision import precision_of
from autoprune.models.quantise import quantise
from autoprune.models.shape import BackboneSpec

FEWEST, ENOUGH = 6, 5.0
"""Runs that are timed at the least, as the ends of six hold the median at 95 %; and seconds after
which no further ones are."""

REPEATS, WARM = 15, 2
"""Steps of a model that are timed, and that run before those."""

ROUNDS, PATIENCE = 3, 60.0
"""Rounds that several plans are timed in, and seconds after which no further one begins."""

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
    repeats: int = REPEATS,
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
                f"a model of {text_in(needed, BYTES)} cannot be timed on this machine, where "
                f"{text_in(machine.free, BYTES)} are free: end other programs, or plan for a "
                "device by its name"
            )
    with computing_on(threads):
        steps = DecodeSteps(config, spec, pruned, deployment, precision, where)
        found = times(steps.step, where, repeats, enough=ENOUGH)
    return measured(found, HERE, precision_of(precision).dtype)


def timing_seconds(latencies: Sequence[float]) -> float:
    """Return what :func:`measure_latencies` takes at models of these times, building them apart."""
    steps = (max(FEWEST, min(REPEATS, ENOUGH / seconds)) + WARM for seconds in latencies)
    a_round = sum(count * seconds for count, seconds in zip(steps, latencies, strict=True))
    return a_round * min(ROUNDS, 1 + PATIENCE // a_round) if a_round else 0.0


def measure_latencies(
    config: Any,
    spec: BackboneSpec,
    plans: Sequence[tuple[Kept, str]],
    deployment: Deployment,
    *,
    threads: int = 0,
    on_failure: Callable[[int, Exception], None] | None = None,
) -> list[Latency | None]:
    """Return the time of a decoded token of several plans, each with its precision.

    They are timed in turns, and in rounds apart from each other, as what else a machine does comes
    and goes: of a plan's rounds the one in the middle counts, and the interval holds all of them.

    Args:
        config: of the dense model.
        spec: of the dense model.
        plans: what is kept of it, and the precision.
        deployment: the prompt that the cache holds.
        threads: see :func:`measure_latency`.
        on_failure: told of a plan that could not be timed, by its place, which is None in the
            result; without it the error is raised.

    Raises:
        AutoPruneError: see :func:`measure_latency`.
    """
    rounds: list[list[Latency]] = [[] for _ in plans]
    failed: set[int] = set()
    began = time.perf_counter()
    while len(rounds) > len(failed) and max(map(len, rounds)) < ROUNDS:
        for place, (pruned, precision) in enumerate(plans):
            if place in failed:
                continue
            try:
                found = measure_latency(
                    config, spec, pruned, deployment, precision, threads=threads
                )
            except Exception as error:
                if on_failure is None:
                    raise
                failed.add(place)
                on_failure(place, error)
            else:
                rounds[place].append(found)
        if time.perf_counter() - began > PATIENCE:
            break
    return [None if i in failed else middle(found) for i, found in enumerate(rounds)]


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
    warm: int = WARM,
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
