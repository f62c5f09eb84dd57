"""A model as ONNX graphs: what each is traced from, and its names and dynamic axes.

The layout is that of transformers.js and optimum: token embeddings, vision encoder, and one
decoder that serves prompts (with an empty cache) and single steps alike. Graphs are traced from
the model in memory, so that layers of different shapes are as good as equal ones; the tracing and
its mends for ONNX Runtime are transformers' own exporter.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.models.families import text_config, wrapper_of
from autoprune.models.loading import quiet
from autoprune.models.vision import projector_of

EMBED, VISION, DECODER = "embed_tokens", "vision_encoder", "decoder_model_merged"
_BATCH, _PAST, _LENGTH = 2, 3, 4  # of the traced example; each stands for any number


@dataclass(frozen=True)
class CacheShape:
    """What a layer keeps of a position: heads, and the width of a key and of a value."""

    heads: int
    key: int
    value: int


class _Embed(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embedding = model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"inputs_embeds": self.embedding(input_ids)}


class _Vision(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        projector = projector_of(self.model)
        assert projector is not None
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            kept.append(output)
            return output[None]  # LLaVA goes on to list its images, which would fix their number

        hook = projector.register_forward_hook(keep)
        try:
            self.model.get_image_features(pixel_values=pixel_values)
        finally:
            hook.remove()
        return {"image_features": kept[0]}


class _Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.config = text_config(model.config)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        **past: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        from transformers import DynamicCache

        pairs = [(past[_flat(i, "key")], past[_flat(i, "value")]) for i in range(len(past) // 2)]
        cache = DynamicCache(pairs)
        states = self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        made = {"logits": self.head(states)}
        for place, layer in enumerate(cache.layers):
            kept: Any = layer
            made |= {_now(place, "key"): kept.keys, _now(place, "value"): kept.values}
        return made


def _flat(layer: int, kind: str) -> str:
    return f"past_key_values_{layer}_{kind}"


def _now(layer: int, kind: str) -> str:
    return f"present_{layer}_{kind}"


@torch.no_grad()
def cache_shapes(model: Any) -> tuple[CacheShape, ...]:
    """Return what each layer writes to the cache, found by running two tokens through."""
    from transformers import DynamicCache

    width = model.get_input_embeddings().weight.shape[1]
    cache = DynamicCache()
    embeds = torch.zeros(1, 2, width, dtype=model.dtype)
    model.get_decoder()(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return tuple(
        CacheShape(at.keys.shape[1], at.keys.shape[-1], at.values.shape[-1]) for at in layers
    )


def write_graphs(model: Any, pixel_values: torch.Tensor | None, folder: Path) -> tuple[str, ...]:
    """Trace a model and write its graphs, each with its weights beside it.

    Args:
        model: in float32, in evaluation mode.
        pixel_values: of two images or more, [images, 3, height, width]; None for a plain
            language model.
        folder: that they are put in.

    Returns:
        Their names.
    """
    from torch.export import Dim

    free = Dim.DYNAMIC
    width = model.get_input_embeddings().weight.shape[1]
    ids = torch.ones(_BATCH, _LENGTH, dtype=torch.long)
    _write(_Embed(model), {"input_ids": ids}, {"input_ids": {0: free, 1: free}}, folder / EMBED)
    names = [EMBED]
    if wrapper_of(model.config).projector is not None:
        assert pixel_values is not None
        axes = {"pixel_values": {0: free}}
        _write(_Vision(model), {"pixel_values": pixel_values}, axes, folder / VISION)
        names.append(VISION)
    positions = torch.arange(_PAST, _PAST + _LENGTH).repeat(_BATCH, 1)
    inputs = {
        "inputs_embeds": torch.zeros(_BATCH, _LENGTH, width),
        "attention_mask": torch.ones(_BATCH, _PAST + _LENGTH, dtype=torch.long),
        "position_ids": positions,
    }
    shapes: dict[str, dict[int, Any]] = {name: {0: free, 1: free} for name in inputs}
    for place, shape in enumerate(cache_shapes(model)):
        for kind, size in (("key", shape.key), ("value", shape.value)):
            inputs[_flat(place, kind)] = torch.zeros(_BATCH, shape.heads, _PAST, size)
            shapes[_flat(place, kind)] = {0: free, 2: free}
    _write(_Decoder(model), inputs, shapes, folder / DECODER)
    return (*names, DECODER)


def _write(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Mapping[int, Any]],
    path: Path,
) -> None:
    from transformers.exporters import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    with _silent():
        exporter = OnnxExporter()
        config = OnnxConfig(dynamic=True, dynamic_shapes={k: dict(v) for k, v in shapes.items()})
        traced: Any = module.eval()  # any module will do, whatever the exporter's types say
        graph, _ = exporter.export_program(traced, dict(inputs), config)
        for value in (*graph.graph.inputs, *graph.graph.outputs):
            assert value.name is not None
            value.name = _dotted(value.name)
        exporter.save_program(graph, path.with_suffix(".onnx"))


def _dotted(name: str) -> str:
    """Return the name that the layout gives to a part of the cache."""
    for flat, dotted in (("past_key_values_", "past_key_values."), ("present_", "present.")):
        if name.startswith(flat):
            layer, _, kind = name.removeprefix(flat).partition("_")
            return f"{dotted}{layer}.{kind}"
    return name


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporters' own chatter off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
