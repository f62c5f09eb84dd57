"""A small backbone with made-up importance, and what decoding knobs for it needs."""

from __future__ import annotations

import numpy as np

from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.scores import Importance
from autoprune.search.candidates.decode import DecodeContext

LAYERS, GROUPS, CHANNELS = 8, 4, 48


def toy(layers: int, heads: int, groups: int, channels: int, outside: int) -> BackboneSpec:
    """Return a Llama backbone of equal layers, 32 wide."""
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


SPEC = toy(LAYERS, 2 * GROUPS, GROUPS, CHANNELS, outside=9000)
TOTAL = SPEC.total_params
LARGEST_UNIT = max(SPEC.attention_group_params, SPEC.channel_params, SPEC.head_params * GROUPS)


def importance(spec: BackboneSpec = SPEC) -> Importance:
    rng = np.random.default_rng(0)
    layers, shape = len(spec.layers), spec.layers[0]
    kinds = {"groups": shape.kv_heads, "channels": shape.channels, "heads": shape.heads}
    shapes = {kind: (layers, units) for kind, units in kinds.items()}
    values = {
        f"{name}_{unit}": rng.random(
            shape if name in ("weight_taylor", "magnitude") else (*shape, 2)
        )
        for name in ("weight_taylor", "gate_taylor", "activation", "magnitude")
        for unit, shape in shapes.items()
    }
    influences = {
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


CONTEXT = DecodeContext(
    spec=SPEC,
    importance=importance(),
    min_params=round(0.4 * TOTAL),
    max_params=round(0.6 * TOTAL),
    train_samples=100,
    max_recovery_samples=50,
)
