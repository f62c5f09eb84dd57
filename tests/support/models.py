"""Tiny random models with real processors: every architecture trait, built in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "user:", "assistant:"]
PLAIN = ["what", "is", "the", "digit", "colour", "left", "right", "of", "and", "how", "many", "?"]
ANSWERS = [*"0123456789", "red", "green", "blue", "yes", "no"]
WORDS = [*SPECIAL, *PLAIN, *ANSWERS]
CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] == 'user' %}{{ ' user: ' }}"
    "{% else %}{{ ' assistant: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image> ' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ ' </s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' assistant: ' }}{% endif %}"
)
IMAGE_SIZE = 32
PATCH_SIZE = 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2


def tiny_text_config(
    *,
    gqa: bool = True,
    tied: bool = True,
    layers: int = 4,
    hidden: int = 32,
    channels: int = 24,
    bias: bool = False,
) -> LlamaConfig:
    """A Llama of 4 heads (2 KV groups with ``gqa``) of 8 entries."""
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        intermediate_size=channels,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2 if gqa else 4,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        attention_bias=bias,
        mlp_bias=bias,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def tiny_llava_config(*, tower: str = "clip", **text: Any) -> LlavaConfig:
    """A Llava with a two-layer ``clip`` or ``siglip`` tower; ``text`` as in the function above."""
    text_config = tiny_text_config(**text)
    shape: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    if tower == "clip":
        vision = CLIPVisionConfig(**shape, projection_dim=24, initializer_range=0.2)
    else:
        vision = SiglipVisionConfig(**shape, vision_use_head=False)
    return LlavaConfig(
        vision_config=vision,
        text_config=text_config,
        image_token_id=WORDS.index("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        tie_word_embeddings=text_config.tie_word_embeddings,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def tiny_model(config: Any = None, *, seed: int = 0, attn: str = "sdpa", **text: Any) -> Any:
    """A random model of ``config`` (None: a tiny Llava of ``text`` traits), in evaluation mode.

    Biases are random too, so that a lost bias shows.
    """
    config = tiny_llava_config(**text) if config is None else config
    kind = LlavaForConditionalGeneration if config.model_type == "llava" else LlamaForCausalLM
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = kind(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.2)
                elif "norm" in name:
                    parameter.normal_(mean=1.0, std=0.2)
                elif "projector" in name:
                    parameter.normal_(std=0.2)
    finally:
        torch.random.set_rng_state(state)
    model.set_attn_implementation(attn)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A closed vocabulary of whole words."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=CHAT_TEMPLATE,
    )


def tiny_processor() -> LlavaProcessor:
    """The processor of :func:`tiny_llava_config`, with a chat template."""
    from transformers import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_checkpoint(directory: Path, **text: Any) -> Path:
    """Save a tiny Llava with its processor as a stock checkpoint and return its directory."""
    tiny_model(**text).save_pretrained(directory)
    tiny_processor().save_pretrained(directory)
    return directory


def tiny_inputs(
    *, images: bool = True, batch: int = 2, seed: int = 0, padded: bool = True
) -> dict[str, torch.Tensor]:
    """Random inputs of a tiny model: with ``padded``, one more token on the left in each row."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, len(WORDS), (batch, 6), generator=generator)
    image = torch.full((batch, IMAGE_TOKENS if images else 0), WORDS.index("<image>"))
    ids = torch.cat([torch.ones(batch, 1, dtype=torch.long), image, words], dim=1)
    mask = torch.ones_like(ids)
    for row in range(batch if padded else 0):
        ids[row] = torch.cat([torch.zeros(row, dtype=torch.long), ids[row, : ids.shape[1] - row]])
        mask[row, :row] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if images:
        shape = (batch, 3, IMAGE_SIZE, IMAGE_SIZE)
        inputs["pixel_values"] = torch.randn(shape, generator=generator)
    return inputs
