"""Configurations of real sizes, written out: the shapes of models that people prune.

They are used on the meta device, or with fewer layers, so no weights are ever needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig


@dataclass(frozen=True)
class Shape:
    """A model of a real size.

    ``params`` is its known number of parameters, counted once with tied tensors.
    """

    make: Callable[[], Any]
    params: int


def llava_7b() -> LlavaConfig:
    """LLaVA-1.5-7B."""
    return LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=32064,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        image_token_id=32000,
        image_seq_length=576,
        vision_feature_layer=-2,
        dtype="bfloat16",
        pad_token_id=32001,
    )


SHAPES: dict[str, Shape] = {"llava-1.5-7b": Shape(llava_7b, 7_063_427_072)}
