"""Sizes: closed form equals what the model holds, in both units."""

from __future__ import annotations

import pytest
from support.models import tiny_llava_config, tiny_model, tiny_text_config
from transformers import LlamaConfig, LlavaConfig

from autoprune.cost.parameters import format_params, size_of
from autoprune.models.shape import LayerShape, spec_of


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("gqa", [True, False])
def test_closed_form_equals_the_model(gqa: bool, tied: bool, bias: bool) -> None:
    model = tiny_model(gqa=gqa, tied=tied, bias=bias)
    spec = spec_of(model)
    assert spec == spec_of(tiny_llava_config(gqa=gqa, tied=tied, bias=bias))
    assert spec.total_params == sum(p.numel() for p in model.parameters())
    layers = model.get_decoder().layers
    assert spec.layer_params == tuple(sum(p.numel() for p in la.parameters()) for la in layers)
    assert spec.attention_group_params == spec.q_per_group * spec.head_params + spec.kv_head_params


def test_plain_language_model() -> None:
    config = tiny_text_config()
    assert spec_of(config).total_params == sum(p.numel() for p in tiny_model(config).parameters())


def test_llava_7b_without_weights() -> None:
    """The count of LLaVA-1.5-7B's shape that was measured on the real classes."""
    text = LlamaConfig(vocab_size=32064)
    assert spec_of(LlavaConfig(text_config=text)).total_params == 7_063_427_072


def test_size_says_both_units() -> None:
    spec = spec_of(tiny_llava_config())
    dense = size_of(spec)
    assert (dense.fraction, dense.backbone_removed) == (1.0, 0.0)
    assert dense.params == spec.total_params
    half = size_of(spec, spec.layers[:2])
    assert half.backbone_removed == 0.5
    assert half.params == spec.with_layers(spec.layers[:2]).total_params
    assert half.fraction == half.params / spec.total_params


def test_dropped_sublayers_cost_nothing() -> None:
    spec = spec_of(tiny_llava_config())
    only_mlp, only_attention = LayerShape(0, 0, 24), LayerShape(4, 2, 0)
    whole = spec.params_of_layer(LayerShape(4, 2, 24))
    assert spec.params_of_layer(only_mlp) + spec.params_of_layer(only_attention) == whole
    assert spec.params_of_layer(LayerShape(0, 0, 0)) == 0


def test_identity_is_of_the_shape() -> None:
    assert spec_of(tiny_model(seed=0)).identity == spec_of(tiny_model(seed=1)).identity
    assert spec_of(tiny_llava_config()).identity != spec_of(tiny_llava_config(tied=False)).identity


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "512"), (1_400_000, "1.4M"), (2_034_000, "2.03M"), (7_063_427_072, "7.06B")],
)
def test_format(count: int, text: str) -> None:
    assert format_params(count) == text
