"""Seconds a FLOP of this machine on a model's shape, measured in seconds and without weights."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune.cost.flops import BACKWARD, layer_flops
from autoprune.models.families import text_config
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.resources import Resources

TIMED_FLOPS = 5e10
"""Most of a forward pass that is timed on a CPU."""

LORA_RANK = 16

TURNS, ENOUGH = (3, 9), 0.5
"""Fewest and most times that a pass is timed; and seconds after which it is often enough."""


@dataclass(frozen=True)
class Speed:
    """Seconds a FLOP, as ``cost.flops`` counts them: scoring, and a training step."""

    forward: float
    training: float


def measure_speeds(
    config: Any,
    spec: BackboneSpec,
    tokens: int,
    resources: Resources,
    *,
    share: float = 1.0,
    scopes: Sequence[str] = ("full",),
    batch: int = 16,
    dtype: torch.dtype = torch.float32,
) -> Mapping[str, Speed]:
    """Time one decoder layer of a model, forward and backward, for each scope of training.

    LoRA's small products take time that their FLOPs do not tell, also where such a model is only
    scored; so each scope is timed as it is. A layer of a real model on a CPU is given less than
    a batch, so that this takes seconds.

    Args:
        config: of the whole model.
        spec: its shape.
        tokens: length of a sample.
        resources: of one trial.
        share: of a layer's width that is kept, where its class can be built so.
        scopes: keys of ``cost.flops.BACKWARD``.
        batch: samples of a forward pass.
        dtype: of the weights.
    """
    device = resources.claim()
    one = one_layer(text_config(config), share)
    layer = _shape_of(one)
    if device.type == "cpu":
        most = max(16, int(TIMED_FLOPS // layer_flops(spec, layer, tokens)))
        tokens = min(tokens, most)
        batch = max(1, min(batch, most // tokens))
    flops = batch * tokens * layer_flops(spec, layer, tokens)
    embeds = torch.randn(batch, tokens, one.hidden_size, device=device, dtype=dtype)
    found = {}
    for scope in dict.fromkeys(scopes):
        model = _model(one, scope, dtype, device)
        forward = _seconds(model, embeds, training=False)
        training = _seconds(model, embeds, training=True) if BACKWARD[scope] else forward
        found[scope] = Speed(forward / flops, training / ((1 + BACKWARD[scope]) * flops))
    return found


def one_layer(text: Any, share: float = 1.0) -> Any:
    """Return the configuration of one decoder layer, narrowed to about ``share`` where it can be.

    Heads are narrowed only where the class takes their dimension by itself.
    """
    one = copy.deepcopy(text)
    one.num_hidden_layers = 1
    one.vocab_size = 16
    one.pad_token_id = one.bos_token_id = one.eos_token_id = None
    if getattr(one, "layer_types", None):
        one.layer_types = one.layer_types[:1]
    if share < 1.0:
        one.intermediate_size = max(1, round(one.intermediate_size * share))
        if getattr(one, "head_dim", None) and getattr(one, "num_key_value_heads", None):
            group = one.num_attention_heads // one.num_key_value_heads
            one.num_key_value_heads = max(1, round(one.num_key_value_heads * share))
            one.num_attention_heads = group * one.num_key_value_heads
    return one


def _model(one: Any, scope: str, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import AutoModel

    model = AutoModel.from_config(one, dtype=dtype).to(device)
    if scope == "full":
        return model
    model.requires_grad_(False)
    if scope == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        names = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=sorted(names))
        inject_adapter_in_model(config, model)
        model.to(device=device, dtype=dtype)
    return model


def _seconds(model: Any, embeds: torch.Tensor, *, training: bool) -> float:
    times: list[float] = []
    inputs = embeds.clone().requires_grad_(training)
    for turn in range(TURNS[1]):
        if turn >= TURNS[0] and sum(times) > ENOUGH:
            break
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            states = model(inputs_embeds=inputs).last_hidden_state
            if training:
                states.sum().backward()
        if embeds.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _shape_of(text: Any) -> LayerShape:
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return LayerShape(heads, kv_heads, text.intermediate_size)
