"""One tiny random model of every supported family: the data table of the contract tests.

A case is a whole model: its configuration and inputs with images, as its processor would make
them. ``CASES`` holds every pair of wrapper and text backbone that users meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from support.processors import processor_for

VOCABULARY = 64
PAD, BOS, EOS = 0, 1, 2
IMAGE, VIDEO, VISION_START, VISION_END = 60, 61, 62, 63
LAYERS, HIDDEN, CHANNELS, HEADS, HEAD_DIM = 4, 32, 24, 4, 8
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A wrapper around a text backbone.

    Attributes:
        wrapper: model_type of the whole model.
        text: model_type of its decoder.
        build: its configuration, from the text backbone's counts.
        images: image inputs of a batch of two rows, and the image tokens of each row.
    """

    wrapper: str
    text: str
    build: Callable[..., Any]
    images: Callable[[torch.Generator], tuple[Inputs, int]] | None

    @property
    def vision(self) -> bool:
        return self.images is not None

    def config(self, *, gqa: bool = True, **text: Any) -> Any:
        return self.build(self.text, _text(self.text, gqa, **text))

    def processor(self, words: list[str] | None = None) -> Any:
        """A real processor of the family; a tokenizer for a plain language model."""
        return processor_for(self.wrapper, words)

    def saved(self, directory: Path, words: list[str] | None = None, **text: Any) -> Path:
        """A stock checkpoint of a random model with its processor."""
        build_model(self.config(**text)).save_pretrained(directory)
        self.processor(words).save_pretrained(directory)
        return directory

    def inputs(self, *, padded: bool = True, seed: int = 0) -> Inputs:
        """Two rows; with ``padded`` the second has one token less, and is padded on the left."""
        generator = torch.Generator().manual_seed(seed)
        extra, tokens = ({}, 0) if self.images is None else self.images(generator)
        words = torch.randint(5, IMAGE, (2, 7), generator=generator)
        start = torch.full((2, 1), VISION_START)
        image = torch.full((2, tokens), IMAGE)
        ids = torch.cat([torch.full((2, 1), BOS), start, image, words], dim=1)
        mask = torch.ones_like(ids)
        if padded:
            ids[1] = torch.cat([torch.tensor([PAD]), ids[1, :-1]])
            mask[1, 0] = 0
        kind = _TYPE_IDS.get(self.wrapper)
        if kind is not None:
            extra[kind] = (ids == IMAGE).long()
        if self.wrapper == "paligemma":  # 0 for what all of the prefix sees, 1 for the answer
            extra[kind] = torch.zeros_like(ids)
            extra[kind][:, -3:] = 1
        return {"input_ids": ids, "attention_mask": mask, **extra}


_TYPE_IDS = {
    "gemma3": "token_type_ids",
    "paligemma": "token_type_ids",
    "qwen2_vl": "mm_token_type_ids",
    "qwen2_5_vl": "mm_token_type_ids",
    "qwen3_vl": "mm_token_type_ids",
}


def _text(name: str, gqa: bool, *, layers: int = LAYERS, tied: bool | None = None, **more: Any):
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": CHANNELS,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2 if gqa else HEADS,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        **_TEXT_MORE.get(name, {}),
        **more,
    }
    if name not in ("qwen2_vl_text", "qwen2_5_vl_text"):
        values.setdefault("head_dim", HEAD_DIM)
    if tied is not None:
        values["tie_word_embeddings"] = tied
    return values


_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_KINDS = ["sliding_attention", "full_attention"]
_TEXT_MORE: dict[str, dict[str, Any]] = {
    "qwen2_vl_text": {"rope_parameters": _MROPE},
    "qwen2_5_vl_text": {"rope_parameters": _MROPE},
    "qwen3_vl_text": {"rope_parameters": {**_MROPE, "mrope_interleaved": True}},
    # A window shorter than the inputs, so that it matters which layers have it.
    "gemma3_text": {
        "sliding_window": 4,
        "layer_types": _KINDS * (LAYERS // 2),
        "query_pre_attn_scalar": HEAD_DIM,
    },
    "phi3": {"original_max_position_embeddings": 256},
    "phi": {"partial_rotary_factor": 0.5},
}


def _plain(name: str, text: dict[str, Any]) -> Any:
    return CONFIG_MAPPING[name](**text)


_TOWER = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def _wrapped(wrapper: str, vision: dict[str, Any], **more: Any) -> Callable[..., Any]:
    def build(name: str, text: dict[str, Any]) -> Any:
        usual = getattr(CONFIG_MAPPING[name](), "tie_word_embeddings", False)
        tied = text.get("tie_word_embeddings", usual)
        config = CONFIG_MAPPING[wrapper](
            vision_config=dict(vision),
            text_config={"model_type": name, **text},
            image_token_id=IMAGE,
            tie_word_embeddings=tied,
            pad_token_id=PAD,
            **more,
        )
        if not hasattr(config, "bos_token_id"):
            config.bos_token_id, config.eos_token_id = BOS, EOS
        return config

    return build


def _pixels(tokens: int, *shape: int, **extra: Any) -> Callable[..., tuple[Inputs, int]]:
    def make(generator: torch.Generator) -> tuple[Inputs, int]:
        more = {name: torch.tensor(value) for name, value in extra.items()}
        return {"pixel_values": torch.randn(shape, generator=generator), **more}, tokens

    return make


_CLIP = {"model_type": "clip_vision_model", **_TOWER, "projection_dim": 24}
_SIGLIP = {"model_type": "siglip_vision_model", **_TOWER, "vision_use_head": False}
_LLAVA = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
_INTERN = {
    **_TOWER,
    "image_size": [32, 32],
    "patch_size": [8, 8],
    "initializer_range": 0.2,
}
_PINPOINTS = [[32, 64], [64, 32], [64, 64]]
_QWEN_VISION = {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 4, "hidden_size": 32}
_QWEN = {
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_GRID = _pixels(4, 2 * 16, 3 * 2 * 4 * 4, image_grid_thw=[[1, 4, 4], [1, 4, 4]])
_NEWLINES = 4 + 2 * 4 + 2  # the base tile, two tiles side by side, a newline token for each row


_BUILDERS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Inputs, int]], tuple[str, ...]]]
_BUILDERS = {
    "llava": (
        _wrapped("llava", _SIGLIP, **_LLAVA, image_seq_length=4),
        _pixels(4, 2, 3, 32, 32),
        ("llama", "phi", "phi3", "mistral", "qwen2"),
    ),
    "internvl": (
        _wrapped("internvl", _INTERN, image_seq_length=4),
        _pixels(4, 2, 3, 32, 32),
        ("qwen2", "qwen3", "phi3", "llama"),
    ),
    "llava_next": (
        _wrapped("llava_next", _CLIP, image_grid_pinpoints=_PINPOINTS),
        _pixels(_NEWLINES, 2, 3, 3, 32, 32, image_sizes=[[32, 64], [32, 64]]),
        ("qwen2", "llama", "mistral"),
    ),
    "llava_onevision": (
        _wrapped("llava_onevision", _SIGLIP, image_grid_pinpoints=_PINPOINTS),
        _pixels(_NEWLINES, 2, 3, 3, 32, 32, image_sizes=[[32, 64], [32, 64]]),
        ("qwen2", "llama", "mistral"),
    ),
    "qwen2_vl": (
        _wrapped("qwen2_vl", {**_QWEN_VISION, "embed_dim": 24}, **_QWEN),
        _GRID,
        ("qwen2_vl_text",),
    ),
    "qwen2_5_vl": (
        _wrapped(
            "qwen2_5_vl",
            {
                **_QWEN_VISION,
                "hidden_size": 24,
                "intermediate_size": 32,
                "out_hidden_size": HIDDEN,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            **_QWEN,
        ),
        _GRID,
        ("qwen2_5_vl_text",),
    ),
    "qwen3_vl": (
        _wrapped(
            "qwen3_vl",
            {
                **_QWEN_VISION,
                "hidden_size": 24,
                "intermediate_size": 32,
                "out_hidden_size": HIDDEN,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 1],
            },
            **_QWEN,
        ),
        _GRID,
        ("qwen3_vl_text",),
    ),
    "gemma3": (
        _wrapped("gemma3", _SIGLIP, mm_tokens_per_image=4),
        _pixels(4, 2, 3, 32, 32),
        ("gemma3_text",),
    ),
    "idefics3": (
        _wrapped("idefics3", {**_TOWER, "patch_size": 8}, scale_factor=2),
        _pixels(4, 2, 1, 3, 32, 32),
        ("llama",),
    ),
    "smolvlm": (
        _wrapped("smolvlm", {**_TOWER, "patch_size": 8}, scale_factor=2),
        _pixels(4, 2, 1, 3, 32, 32),
        ("llama",),
    ),
    "paligemma": (
        _wrapped("paligemma", {**_SIGLIP, "projection_dim": HIDDEN}, projection_dim=HIDDEN),
        _pixels(4, 2, 3, 32, 32),
        ("gemma",),
    ),
}
_LANGUAGE = ("llama", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma3_text", "mistral")

CASES: dict[str, Case] = {
    f"{wrapper}-{text}": Case(wrapper, text, build, images)
    for wrapper, (build, images, texts) in _BUILDERS.items()
    for text in texts
} | {text: Case(text, text, _plain, None) for text in _LANGUAGE}


def build_model(config: Any, *, seed: int = 0, attn: str = "sdpa", double: bool = False) -> Any:
    """A random model in evaluation mode; norms and biases are random too, so that a lost one
    shows."""
    from autoprune.models.shape import model_class

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = model_class(config)(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "projector" in name or "merger" in name:
                    parameter.normal_(std=0.2)
                elif "norm" in name:
                    parameter.normal_(mean=1.0, std=0.2)
    finally:
        torch.random.set_rng_state(state)
    model.set_attn_implementation(attn)
    return (model.double() if double else model).eval()
