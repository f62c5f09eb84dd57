"""The embedded model: a LLaVA of about two million parameters, and its processor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.zoo.digits import CANVAS, CELL
from autoprune.zoo.questions import words

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast

EMBEDDED = "embedded"

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
USER, ASSISTANT = "USER", "ASSISTANT"
IMAGE_TOKENS = (CANVAS // CELL) ** 2

# One user turn with its image first, as LLaVA-1.5 has it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first -%}<s>{%- endif -%}
{%- if message['role'] == 'user' -%}USER: {% else -%}ASSISTANT: {% endif -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for item in message['content'] if item['type'] == 'image' -%}<image>{{ '\\n' }}{%- endfor -%}
{%- for item in message['content'] if item['type'] == 'text' -%}{{ item['text'] }}{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'user' -%}{{ ' ' }}{%- else -%}</s>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}
"""


def embedded_path() -> Path:
    """Return the checkpoint directory of the embedded model, as shipped in the package."""
    return Path(__file__).parent / "weights"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the closed-vocabulary tokenizer: one token a word; punctuation is dropped."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BOS, EOS, UNKNOWN, IMAGE]
    vocabulary = {token: i for i, token in enumerate([*special, USER, ASSISTANT, *words()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\w-]+"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """Build the processor; needs nothing beyond PIL, and saves and reloads offline."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image_processor = CLIPImageProcessorPil(
        size={"height": CANVAS, "width": CANVAS},
        crop_size={"height": CANVAS, "width": CANVAS},
        do_resize=True,
        do_center_crop=False,
        image_mean=[0.3, 0.3, 0.3],
        image_std=[0.3, 0.3, 0.3],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def build_config() -> LlavaConfig:
    """Build the configuration: a tower of 3 layers, a Llama backbone of 10."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    tokenizer = build_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=CELL,
        projection_dim=96,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
        architectures=["LlavaForConditionalGeneration"],
    )
