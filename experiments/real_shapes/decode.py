"""Latency of a decoder at batch 1: a static cache, and CUDA graphs where there is a GPU.

A decode step at batch 1 is bound by launches when it is run eagerly, so on a GPU both the prefill
and the step are captured once and replayed. A capture fails where anything waits for the CPU, so
what is timed is a graph, or nothing.

On a CPU what is timed is the CPU's own time of one thread, which does not count while others run.
Memory that is shared may still be a third faster or slower a minute later. So each repeat of a
decode step also times a yardstick before and after: reading matrices of fixed size, as the step
does. A repeat during which the yardstick changed says nothing, and is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from autoprune.models.shape import BackboneSpec, LayerShape

_WARM = 3
_YARDSTICK = (4, 11008, 4096)
_STEADY, _TRIES = 0.10, 6


def bytes_read(
    spec: BackboneSpec, shapes: Sequence[LayerShape], positions: int, itemsize: int
) -> int:
    """Return what a decode step reads of the decoder layers: weights and static cache."""
    weights = sum(spec.params_of_layer(shape) for shape in shapes)
    cache = sum(2 * shape.kv_heads * spec.head_dim * positions for shape in shapes)
    return itemsize * (weights + cache)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, torch computes with one thread: several would spin while one waits for another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Decoder:
    """A model with its cache filled to ``tokens`` positions, and room for ``steps`` more.

    Args:
        model: whole, with values.
        tokens: positions of the prefill.
        steps: decode steps that are timed together.
        device: where the model is.
    """

    def __init__(self, model: Any, tokens: int, steps: int, device: torch.device) -> None:
        from transformers import StaticCache

        self.decoder = model.get_decoder()
        self.embedding = model.get_input_embeddings()
        self.head = model.get_output_embeddings()
        self.tokens, self.steps, self.device = tokens, steps, device
        self.room = tokens + steps + 2 * _WARM
        self.cache = StaticCache(config=self.decoder.config, max_cache_len=self.room)
        self.graphs = device.type == "cuda"
        self.ids = torch.randint(5, 1000, (1, tokens), device=device)
        self.token = torch.full((1, 1), 7, device=device)
        self.places = torch.arange(tokens, device=device)[None]
        self.place = torch.full((1, 1), tokens, device=device)
        # The masks are made once: making them is no part of the model's arithmetic.
        seen = torch.arange(self.room, device=device)
        self.yardstick_ms: list[float] = []
        self.causal = (seen[None, :] <= seen[:tokens, None])[None, None]
        self.visible = (seen <= tokens)[None, None, None]

    @torch.no_grad()
    def prefill(self, repeats: int) -> list[float]:
        """Return milliseconds of a prefill of all positions, a repeat each."""
        return self._times(self._fill, 1, repeats)

    @torch.no_grad()
    def decode(self, repeats: int) -> list[float]:
        """Return milliseconds of a decode step, the mean of ``steps`` a repeat.

        On a CPU ``yardstick_ms`` has as many times of the yardstick afterwards.
        """
        self._fill()
        if self.graphs:
            return self._times(self._step, self.steps, repeats)
        matrices = torch.randn(_YARDSTICK).to(torch.bfloat16)
        states = torch.ones(1, _YARDSTICK[2], dtype=torch.bfloat16)

        def read() -> None:
            for matrix in matrices:
                torch.nn.functional.linear(states, matrix)

        read()
        found: list[float] = []
        for turn in range(_TRIES * repeats):
            before = self._clocked(read, 2)
            times = self._times(self._step, self.steps, 1)
            after = self._clocked(read, 2)
            last = turn == _TRIES * repeats - 1
            if abs(after / before - 1) < _STEADY or (last and not found):
                self.yardstick_ms.append((before + after) / 2)
                found += times
            if len(found) == repeats:
                break
        return found

    def _fill(self) -> torch.Tensor:
        self._rewind(0)
        return self._run(self.ids, self.places, self.causal)

    def _step(self) -> torch.Tensor:
        return self._run(self.token, self.place, self.visible)

    def _run(self, ids: torch.Tensor, places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.decoder(
            inputs_embeds=self.embedding(ids),
            attention_mask=mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        logits: torch.Tensor = self.head(states[:, -1:])
        return logits.argmax(-1)

    def _rewind(self, length: int) -> None:
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.cumulative_length.fill_(length)

    def _times(self, work: Callable[[], Any], count: int, repeats: int) -> list[float]:
        """Time ``count`` runs of ``work`` together, ``repeats`` times, in milliseconds a run."""
        for _ in range(_WARM if self.graphs else 1):
            work()
        replay = self._captured(work) if self.graphs else work
        found = []
        for _ in range(repeats):
            self._rewind(self.tokens)
            found.append(self._clocked(replay, count))
        return found

    def _captured(self, work: Callable[[], Any]) -> Callable[[], Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        graph.replay()
        return graph.replay

    def _clocked(self, work: Callable[[], Any], count: int) -> float:
        if not self.graphs:
            with _one_thread():
                started = time.process_time()
                for _ in range(count):
                    work()
                return 1000 * (time.process_time() - started) / count
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(count):
            work()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / count
