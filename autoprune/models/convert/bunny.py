"""Bunny-v1.0-3B: Phi-2 that reads SigLIP's patches through two linear layers.

Facts from the repository BAAI-DCAI/Bunny and the modelling code beside the published weights:
the features are those that enter the vision tower's last layer (the published tower lacks that
layer and its pooling head), the head has no bias, and no token stands for an image: the prompt
is cut there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.convert.chat import ChatForm
from autoprune.models.convert.layout import (
    TEXT_SIZES,
    Built,
    Layout,
    Requirement,
    Rule,
    Source,
    generation_of,
    required,
)
from autoprune.models.convert.tokens import load_tokenizer

_TOWER = "model.vision_tower.vision_tower.vision_model."
_IMAGE = "<image>"
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Tower:
    """A vision tower that the configuration only names; sizes in entries and pixels."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    image_size: int
    patch_size: int


# By the last part of ``mm_vision_tower``.
TOWERS = {
    "siglip-so400m-patch14-384": Tower(
        hidden_size=1152,
        intermediate_size=4304,
        layers=27,
        heads=16,
        image_size=384,
        patch_size=14,
    )
}


def build(source: Source) -> Built:
    """Make the transformers configuration and processor of a Bunny checkpoint."""
    from transformers import LlavaConfig, LlavaImageProcessorPil, LlavaProcessor

    tower = _tower(source)
    vision, feature_layer = _vision_config(source, tower)
    text = _text_config(source)
    tokenizer = load_tokenizer(source.directory, text, {"image_token": _IMAGE})
    notes = [
        f"the vision tower's sizes and its images' mean and deviation are those of "
        f"{source.config['mm_vision_tower']}, which the configuration only names",
        "the chat template is the prompt form that Bunny was trained with",
    ]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"texts are padded with {tokenizer.eos_token}: the tokenizer names no padding")
    image_id = int(tokenizer.convert_tokens_to_ids(_IMAGE))
    rows = max(text.vocab_size, image_id + 1)
    if rows > text.vocab_size:
        notes.append(
            f"token {image_id} ({_IMAGE}) is new, with the mean of the other tokens' weights: "
            "Bunny has no token for an image"
        )
    text.vocab_size = rows
    pad = source.config.get("image_aspect_ratio") == "pad"
    square = {"height": tower.image_size, "width": tower.image_size}
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=image_id,
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        dtype=source.dtype,
    )
    form = ChatForm(
        system=_SYSTEM,
        system_around=("", " "),
        user_around=("USER: ", " "),
        assistant_around=("ASSISTANT: ", tokenizer.eos_token),
        generation="ASSISTANT:",
        image=f"{_IMAGE}\n",
    )
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(
            do_pad=pad,
            do_center_crop=False,
            size=square,
            crop_size=square,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=tower.patch_size,
        vision_feature_select_strategy="full",
        image_token=_IMAGE,
        chat_template=form.template(),
    )
    if source.dtype == "float16":
        notes.append(
            "the weights stay float16; run them in bfloat16 or float32, since Phi-2's attention "
            "can overflow in float16"
        )
    generation = generation_of(source)
    generation.setdefault("eos_token_id", tokenizer.eos_token_id)
    generation.setdefault("bos_token_id", tokenizer.bos_token_id)
    generation["pad_token_id"] = tokenizer.pad_token_id
    names = ("model.language_model.embed_tokens.weight", "lm_head.weight")
    return Built(config, processor, generation, dict.fromkeys(names, rows), tuple(notes))


def _tower(source: Source) -> Tower:
    named = str(required(source, ("mm_vision_tower",))["mm_vision_tower"])
    tower = TOWERS.get(PurePosixPath(named).name)
    if tower is None:
        raise AutoPruneError(
            f"{source.directory / 'config.json'} names the vision tower {named!r}: only "
            f"{', '.join(sorted(TOWERS))} can be converted"
        )
    if source.config.get("mm_hidden_size", tower.hidden_size) != tower.hidden_size:
        raise AutoPruneError(
            f"{source.directory / 'config.json'} says mm_hidden_size = "
            f"{source.config['mm_hidden_size']} where {named} has {tower.hidden_size}: use the "
            "config.json that belongs to these weights"
        )
    return tower


def _vision_config(source: Source, tower: Tower) -> tuple[Any, int]:
    """Return the tower's configuration and which hidden state the projector reads."""
    from transformers import SiglipVisionConfig

    layer = re.compile(re.escape(_TOWER) + r"encoder\.layers\.(\d+)\.")
    held = {int(match[1]) for name in source.headers if (match := layer.match(name))}
    if not held:
        raise AutoPruneError(
            f"{source.directory} holds no vision tower ({_TOWER}...): use the checkpoint that has "
            "it in it, such as BAAI/Bunny-v1_0-3B"
        )
    # The projector reads what enters the last layer, which is there in some checkpoints.
    places = {tower.layers - 1: -1, tower.layers: -2}
    if len(held) not in places:
        raise AutoPruneError(
            f"{source.directory} holds {len(held)} layers of {source.config['mm_vision_tower']}, "
            f"which has {tower.layers}: copy the shards of one checkpoint"
        )
    config = SiglipVisionConfig(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_hidden_layers=len(held),
        num_attention_heads=tower.heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        vision_use_head=any(name.startswith(f"{_TOWER}head.") for name in source.headers),
    )
    return config, places[len(held)]


def _text_config(source: Source) -> Any:
    from transformers import PhiConfig

    sizes = required(
        source,
        TEXT_SIZES,
    )
    # What a configuration leaves out has the default of Bunny's own PhiConfig.
    defaults = {
        "num_key_value_heads": None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attention_dropout": 0.0,
        "hidden_act": "gelu_new",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    return PhiConfig(
        **sizes,
        **{name: source.config.get(name, value) for name, value in defaults.items()},
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(source.config.get("rope_theta", 10000.0)),
            "partial_rotary_factor": float(source.config.get("partial_rotary_factor", 0.5)),
        },
        tie_word_embeddings=False,
    )


LAYOUT = Layout(
    model_type="bunny-phi",
    example="BAAI/Bunny-v1_0-3B",
    model_class="LlavaForConditionalGeneration",
    rules=(
        Rule(r".*\.(rotary_emb\.inv_freq|embeddings\.position_ids)", ()),
        Rule(re.escape(_TOWER) + r"(.+)", (r"model.vision_tower.\1",)),
        Rule(
            r"model\.mm_projector\.0\.(weight|bias)", (r"model.multi_modal_projector.linear_1.\1",)
        ),
        Rule(
            r"model\.mm_projector\.2\.(weight|bias)", (r"model.multi_modal_projector.linear_2.\1",)
        ),
        Rule(
            r"model\.((?:embed_tokens|layers|final_layernorm)\..+)", (r"model.language_model.\1",)
        ),
        Rule(r"lm_head\.weight", ("lm_head.weight",)),
    ),
    saved_as=(
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    requirements=(
        Requirement("mm_projector_type", ("mlp2x_gelu",), "mlp2x_gelu", "another projector"),
        Requirement("use_s2", (False,), False, "which reads images at several scales"),
        Requirement("qk_layernorm", (False,), False, "which Phi-2 does not have"),
        Requirement("rope_scaling", (None,), None, "which Phi-2 does not have"),
        Requirement("tie_word_embeddings", (False,), False, "which Bunny does not have"),
    ),
    build=build,
)
