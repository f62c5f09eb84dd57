"""Memory while answering: cache and activations against a count of every tensor alive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.alive import Alive
from support.families import CASES, build_model
from support.models import tiny_llava_config
from transformers import DynamicCache

from autoprune.cost.bytes import stored_bytes
from autoprune.cost.deployment import deployment_of, placed
from autoprune.cost.memory import memory_of
from autoprune.errors import AutoPruneError
from autoprune.models.shape import LayerShape, spec_of
from autoprune.models.vision import vision_features

SHAPES: list[dict[str, Any]] = [
    {"hidden_size": 64, "intermediate_size": 256},
    {"hidden_size": 64, "intermediate_size": 64},
    {"hidden_size": 64, "intermediate_size": 24, "num_attention_heads": 8, "head_dim": 16},
]
BACKBONES = ("llama", "qwen2", "gemma3_text", "phi", "phi3", "qwen3", "mistral")


def peak_of(run: Any, model: Any, inputs: Any) -> int:
    """Most bytes alive while ``run`` runs, weights and inputs left out."""
    with torch.no_grad(), Alive() as alive:
        alive.ignore([*model.parameters(), *model.buffers(), *inputs])
        kept = run()
        peak = alive.peak
    del kept
    return peak


@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "even", "heads"])
@pytest.mark.parametrize("text", BACKBONES)
def test_prefill_of_a_decoder(text: str, shape: dict[str, Any]) -> None:
    case = next(c for c in CASES.values() if c.wrapper == c.text == text)
    config = case.config(max_position_embeddings=1024, **shape)
    model, positions = build_model(config), 384
    decoder = model.get_decoder()
    given = torch.randn(1, positions, config.hidden_size)
    cache = DynamicCache(config=decoder.config)
    peak = peak_of(
        lambda: decoder(inputs_embeds=given, past_key_values=cache, use_cache=True), model, [given]
    )
    spec = spec_of(model)
    counted = memory_of(spec, None, "float32", deployment_of(config, positions))
    assert counted.weights == 4 * spec.total_params
    assert 0.95 * peak < counted.cache + counted.activations < 1.3 * peak


WHOLE = ("llava", "internvl", "qwen2_5_vl", "gemma3", "idefics3", "paligemma", "llava_onevision")


@pytest.mark.parametrize("wrapper", WHOLE)
def test_prefill_of_a_whole_model(wrapper: str) -> None:
    case = next(c for c in CASES.values() if c.wrapper == wrapper)
    model = build_model(case.config())
    inputs = {
        name: value[:1] if name.startswith(("input", "att", "token", "mm")) else value
        for name, value in case.inputs(padded=False).items()
    }
    tokens = inputs["input_ids"].shape[1]
    both = case.inputs(padded=False)
    peak = peak_of(
        lambda: model(**both, use_cache=True, logits_to_keep=1), model, list(both.values())
    )
    images = int((inputs["input_ids"] == 60).sum())
    deployment = deployment_of(model.config, tokens - images, 1, images)
    counted = memory_of(spec_of(model), None, "float32", deployment)
    # Two rows are run, and one is counted; a model this small holds other things too.
    assert 0.6 * peak / 2 < counted.cache + counted.activations < 1.3 * peak / 2


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_vision_tower(tower: str) -> None:
    config = tiny_llava_config(tower=tower)
    vision, config.text_config.max_position_embeddings = config.vision_config, 1024
    vision.image_size, vision.hidden_size, vision.intermediate_size = 160, 32, 128
    vision.patch_size = 8
    model = build_model(config)
    pixels = torch.randn(1, 3, 160, 160)
    peak = peak_of(lambda: vision_features(model, pixels), model, [pixels])
    room = deployment_of(config, 20, 1).vision_room
    assert 0.85 * peak < 4 * room < 1.35 * peak


def test_windows_bound_the_cache() -> None:
    case = next(c for c in CASES.values() if c.text == c.wrapper == "gemma3_text")
    config = case.config()
    spec, deployment = spec_of(config), deployment_of(config, 100)
    full = 2 * spec.layers[0].kv_heads * spec.head_dim * 4
    assert memory_of(spec, None, "float32", deployment).cache == 2 * full * (100 + 4)
    # Without the layers that see everything only the windows are left.
    gone = LayerShape(0, 0, 0)
    kept = [shape if i % 2 == 0 else gone for i, shape in enumerate(spec.layers)]
    assert memory_of(spec, kept, "float32", deployment).cache == 2 * full * 4
    assert [place for place, _ in placed(spec, kept)] == [0, 2]


def test_images_precision_and_heads_count() -> None:
    case = next(c for c in CASES.values() if c.wrapper == "llava" and c.text == "llama")
    config = case.config()
    spec = spec_of(config)
    one, two = (deployment_of(config, 50, images) for images in (1, 2))
    assert two.positions - one.positions == one.image_tokens > 0
    halves = [replace(shape, heads=2, kv_heads=1) for shape in spec.layers]
    for precision in ("float32", "bfloat16", "int8-bf16"):
        dense = memory_of(spec, None, precision, one)
        assert dense.weights == stored_bytes(spec, None, precision)
        assert memory_of(spec, halves, precision, one).cache * 2 == dense.cache
        assert memory_of(spec, None, precision, two).cache > dense.cache
    assert memory_of(spec, None, "float32", one).cache == 2 * dense.cache


@pytest.mark.parametrize(
    ("context", "images", "said"),
    [(10_000, None, "beyond the 256 positions"), (None, 400, "fewer images")],
)
def test_prompts_that_do_not_fit(context: int | None, images: int | None, said: str) -> None:
    case = next(c for c in CASES.values() if c.wrapper == "llava" and c.text == "llama")
    with pytest.raises(AutoPruneError, match=said):
        deployment_of(case.config(), context, images)


def test_a_language_model_takes_no_images() -> None:
    case = next(c for c in CASES.values() if c.wrapper == c.text == "llama")
    with pytest.raises(AutoPruneError, match="reads no images"):
        deployment_of(case.config(), None, 1)
    assert deployment_of(case.config()).images == 0
