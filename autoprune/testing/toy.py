"""A small backbone with made-up importance: shapes and numbers, and no model."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.scores import Importance

MEASURED = ("weight_taylor", "gate_taylor", "activation", "magnitude")
BY_TOKEN = ("gate_taylor", "activation")
"""Those that are measured for image and text tokens apart."""


def toy_spec(layers: int, heads: int, groups: int, channels: int, outside: int) -> BackboneSpec:
    """Return the shape of a Llama backbone of equal layers, 32 wide.

    Args:
        layers: decoder layers.
        heads: query heads of a layer.
        groups: KV groups of a layer.
        channels: MLP channels of a layer.
        outside: parameters outside the decoder layers.
    """
    return BackboneSpec(
        model_type="llama",
        hidden_size=32,
        head_dim=8,
        layers=(LayerShape(heads, groups, channels),) * layers,
        head_params=512,
        kv_head_params=512,
        channel_params=96,
        attention_fixed_params=0,
        mlp_fixed_params=0,
        layer_fixed_params=64,
        outside_params=outside,
    )


def toy_importance(spec: BackboneSpec, seed: int = 0) -> Importance:
    """Return random importance, at least 0, of every unit of ``spec``."""
    rng = np.random.default_rng(seed)
    layers, shape = len(spec.layers), spec.layers[0]
    kinds = {"groups": shape.kv_heads, "channels": shape.channels, "heads": shape.heads}
    shapes = {kind: (layers, units) for kind, units in kinds.items()}
    values: dict[str, Any] = {
        f"{name}_{unit}": rng.random((*shape, 2) if name in BY_TOKEN else shape)
        for name in MEASURED
        for unit, shape in shapes.items()
    }
    influences: dict[str, Any] = {
        name: rng.random((layers, 2))
        for name in ("block_influence", "attention_influence", "mlp_influence")
    }
    return Importance(
        **values,
        **influences,
        group_params=np.full(layers, float(spec.attention_group_params)),
        channel_params=np.full(layers, float(spec.channel_params)),
        head_params=np.full(layers, float(spec.head_params)),
        samples=1,
        answer_tokens=1,
        loss=1.0,
    )
