"""Mini-InternVL-Chat-4B-V1-5: Phi-3-mini that reads tiles through InternViT and a pixel shuffle.

Facts from the repository OpenGVLab/InternVL: queries, keys and values of the vision tower are one
linear layer in that order; the shuffle of version v2 keeps rows as rows, as transformers does;
the head is never tied; every image becomes tiles of one size and, if there are several, a
thumbnail behind them.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
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
from autoprune.models.convert.tokens import load_tokenizer, space_before

_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_CONVERSATIONS = "conversation.py"
# transformers builds the norms of queries and keys with this, whatever the configuration says.
_QK_NORM_EPS = 1e-6


def build(source: Source) -> Built:
    """Make the transformers configuration and processor of an InternVL checkpoint."""
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    vision = _vision_config(source)
    text = _text_config(source)
    tokenizer = load_tokenizer(source.directory, text, _TOKENS)
    notes = ["images have ImageNet's mean and deviation, which the original code holds"]
    image_id = int(tokenizer.convert_tokens_to_ids(_TOKENS["context_image_token"]))
    highest = max(int(tokenizer.convert_tokens_to_ids(token)) for token in _TOKENS.values())
    rows = max(text.vocab_size, highest + 1)
    if rows > text.vocab_size:
        notes.append(
            f"tokens from {text.vocab_size} on are new, with the mean of the other tokens' "
            f"weights: transformers' processor names {_TOKENS['video_token']}"
        )
    text.vocab_size = rows
    ratio = float(source.config.get("downsample_ratio", 0.5))
    height, width = vision.image_size
    patches = (height // vision.patch_size[0]) * (width // vision.patch_size[1])
    length = int(patches * ratio**2)
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image_id,
        image_seq_length=length,
        downsample_ratio=ratio,
        projector_hidden_act="gelu",
        vision_feature_layer=int(source.config.get("select_layer", -1)),
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        dtype=source.dtype,
    )
    form, end = _chat_form(source, notes)
    tiles = bool(source.config.get("dynamic_image_size", False))
    square = {"height": height, "width": width}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size=square,
            crop_to_patches=tiles,
            min_patches=int(source.config.get("min_dynamic_patch", 1)) if tiles else 1,
            max_patches=int(source.config.get("max_dynamic_patch", 6)) if tiles else 1,
            image_mean=_MEAN,
            image_std=_STD,
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=square, image_mean=_MEAN, image_std=_STD),
        image_seq_length=length,
        chat_template=form.template(),
    )
    generation = generation_of(source)
    generation["eos_token_id"] = _ends(generation, tokenizer, end, source)
    generation.setdefault("bos_token_id", tokenizer.bos_token_id)
    generation.setdefault("pad_token_id", tokenizer.pad_token_id)
    names = ("model.language_model.embed_tokens.weight", "lm_head.weight")
    return Built(config, processor, generation, dict.fromkeys(names, rows), tuple(notes))


def _vision_config(source: Source) -> Any:
    from transformers import InternVLVisionConfig

    sizes = required(
        source,
        ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        "vision_config",
    )
    values: Mapping[str, Any] = source.config["vision_config"]
    # What a configuration leaves out has the default of InternVL's own InternVisionConfig.
    eps = float(values.get("layer_norm_eps", 1e-6))
    normed = bool(values.get("qk_normalization", True))
    if normed and eps != _QK_NORM_EPS:
        raise AutoPruneError(
            f"{source.directory / 'config.json'} says vision_config.layer_norm_eps = {eps}, which "
            f"transformers cannot give the norms of queries and keys: only {_QK_NORM_EPS} can be "
            "converted"
        )
    image = int(values.get("image_size", 224))
    forced = source.config.get("force_image_size") or image
    if forced != image:
        raise AutoPruneError(
            f"{source.directory / 'config.json'} says force_image_size = {forced} and "
            f"vision_config.image_size = {image}: only equal ones can be converted"
        )
    return InternVLVisionConfig(
        **sizes,
        attention_bias=bool(values.get("qkv_bias", False)),
        use_qk_norm=normed,
        hidden_act=values.get("hidden_act", "gelu"),
        hidden_dropout_prob=values.get("dropout", 0.0),
        projection_dropout=values.get("dropout", 0.0),
        attention_dropout=values.get("attention_dropout", 0.0),
        initializer_range=values.get("initializer_range", 0.02),
        layer_scale_init_value=values.get("initializer_factor", 0.1),
        norm_type=values.get("norm_type", "rms_norm"),
        layer_norm_eps=eps,
        image_size=(image, image),
        patch_size=(int(values.get("patch_size", 14)),) * 2,
        num_channels=values.get("num_channels", 3),
        use_mask_token=False,
        use_absolute_position_embeddings=True,
        use_mean_pooling=True,  # means: no norm behind the last layer
    )


def _text_config(source: Source) -> Any:
    from transformers import Phi3Config

    sizes = required(
        source,
        TEXT_SIZES,
        "llm_config",
    )
    values: Mapping[str, Any] = source.config["llm_config"]
    # What a configuration leaves out has the default of Phi-3's own Phi3Config.
    defaults = {
        "num_key_value_heads": None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
        "sliding_window": None,
    }
    return Phi3Config(
        **sizes,
        **{name: values.get(name, value) for name, value in defaults.items()},
        rope_parameters=_rope(source, values),
        tie_word_embeddings=False,
    )


def _rope(source: Source, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return Phi-3's rotary embedding in transformers' words.

    Its kinds ``su`` and ``yarn`` stretch each frequency by its own factor (another set of them
    beyond the original length) and differ only in what the result is multiplied with.
    """
    base = {"rope_theta": float(values.get("rope_theta", 10000.0)), "partial_rotary_factor": 1.0}
    scaling = values.get("rope_scaling")
    if scaling is None:
        return {"rope_type": "default", **base}
    original = int(values.get("original_max_position_embeddings", 4096))
    stretch = max(int(values.get("max_position_embeddings", 4096)) / original, 1.0)
    longrope = math.sqrt(1 + math.log(stretch) / math.log(original))
    attention = {"su": longrope, "longrope": longrope, "yarn": 0.1 * math.log(stretch) + 1.0}
    kind = scaling.get("type", scaling.get("rope_type")) if isinstance(scaling, Mapping) else None
    if kind not in attention:
        raise AutoPruneError(
            f"{source.directory / 'config.json'} says llm_config.rope_scaling = {scaling!r}: only "
            f"the types {', '.join(attention)} can be converted"
        )
    for name in ("short_factor", "long_factor"):
        if not isinstance(scaling.get(name), list):
            raise AutoPruneError(
                f"{source.directory / 'config.json'} lacks llm_config.rope_scaling.{name}: use "
                "the config.json that belongs to these weights"
            )
    return {
        "rope_type": "longrope",
        **base,
        "short_factor": scaling["short_factor"],
        "long_factor": scaling["long_factor"],
        "original_max_position_embeddings": original,
        "factor": stretch,
        "attention_factor": attention[kind],
    }


def _chat_form(source: Source, notes: list[str]) -> tuple[ChatForm, str]:
    """Return the form of a conversation and the token that ends an answer.

    The words of the system stand in the checkpoint's own ``conversation.py``, which is read and
    not run.
    """
    template = source.config.get("template")
    system, end = "", "<|end|>"
    found = _conversation(source, str(template))
    if found is None:
        notes.append(
            f"the checkpoint has no {_CONVERSATIONS} with {template!r}: the chat template has "
            "Phi-3's own tags and no words of the system"
        )
    else:
        system = found.get("system_message", "")
        if found.get("sep", end) != end:
            raise AutoPruneError(
                f"{source.directory / _CONVERSATIONS} ends what is said with {found['sep']!r}: "
                f"only {end!r} can be converted"
            )
    tag = "<|system|>"
    space = " " if space_before(source.directory, tag) else ""
    return (
        ChatForm(
            system=system,
            system_around=(f"{space}{tag}\n", end),
            user_around=("<|user|>\n", end),
            assistant_around=("<|assistant|>\n", end),
            generation="<|assistant|>\n",
            image=f"{_TOKENS['context_image_token']}\n",
            video=f"{_TOKENS['video_token']}\n",
        ),
        end,
    )


def _conversation(source: Source, name: str) -> dict[str, str] | None:
    """Return the strings of one conversation that ``conversation.py`` registers."""
    path = source.directory / _CONVERSATIONS
    if not path.is_file():
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        raise AutoPruneError(f"{path} cannot be read ({error}): copy it again") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            fields = {
                word.arg: word.value.value
                for word in node.keywords
                if word.arg
                and isinstance(word.value, ast.Constant)
                and isinstance(word.value.value, str)
            }
            if fields.get("name") == name:
                return fields
    return None


def _ends(generation: Mapping[str, Any], tokenizer: Any, end: str, source: Source) -> list[int]:
    """Return the tokens that end an answer: the conversation's, and those of the checkpoint."""
    closing = tokenizer.encode(end, add_special_tokens=False)
    if len(closing) != 1:
        raise AutoPruneError(
            f"the tokenizer in {source.directory} splits {end} into {len(closing)} tokens: copy "
            "its files again"
        )
    given = generation.get("eos_token_id", tokenizer.eos_token_id)
    known = given if isinstance(given, list) else [given]
    return list(dict.fromkeys([*closing, *(token for token in known if token is not None)]))


_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
_NEW_LAYER = r"model.vision_tower.encoder.layer.\1."
_EMBEDDINGS = "model.vision_tower.embeddings."

LAYOUT = Layout(
    model_type="internvl_chat",
    example="OpenGVLab/Mini-InternVL-Chat-4B-V1-5",
    model_class="InternVLForConditionalGeneration",
    rules=(
        Rule(r".*\.rotary_emb\.inv_freq", ()),
        Rule(
            _LAYER + r"attn\.qkv\.(weight|bias)",
            tuple(f"{_NEW_LAYER}attention.{part}_proj.\\2" for part in "qkv"),
        ),
        Rule(_LAYER + r"attn\.proj\.(.+)", (_NEW_LAYER + r"attention.projection_layer.\2",)),
        Rule(_LAYER + r"attn\.([qk]_norm\..+)", (_NEW_LAYER + r"attention.\2",)),
        Rule(_LAYER + r"norm1\.(.+)", (_NEW_LAYER + r"layernorm_before.\2",)),
        Rule(_LAYER + r"norm2\.(.+)", (_NEW_LAYER + r"layernorm_after.\2",)),
        Rule(_LAYER + r"ls([12])", (_NEW_LAYER + r"lambda_\2",)),
        Rule(_LAYER + r"(mlp\.fc[12]\..+)", (_NEW_LAYER + r"\2",)),
        Rule(r"vision_model\.embeddings\.class_embedding", (_EMBEDDINGS + "cls_token",)),
        Rule(
            r"vision_model\.embeddings\.position_embedding",
            (_EMBEDDINGS + "position_embeddings",),
        ),
        Rule(
            r"vision_model\.embeddings\.patch_embedding\.(.+)",
            (_EMBEDDINGS + r"patch_embeddings.projection.\1",),
        ),
        Rule(r"mlp1\.0\.(.+)", (r"model.multi_modal_projector.layer_norm.\1",)),
        Rule(r"mlp1\.1\.(.+)", (r"model.multi_modal_projector.linear_1.\1",)),
        Rule(r"mlp1\.3\.(.+)", (r"model.multi_modal_projector.linear_2.\1",)),
        Rule(r"language_model\.model\.(.+)", (r"model.language_model.\1",)),
        Rule(r"language_model\.lm_head\.weight", ("lm_head.weight",)),
    ),
    saved_as=(
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    requirements=(
        Requirement("llm_config.model_type", ("phi3",), None, "another text backbone"),
        Requirement("template", ("phi3-chat",), None, "another form of conversation"),
        Requirement("ps_version", ("v2",), "v1", "which transposes the image"),
        Requirement("select_layer", (-1,), -1, "another layer of the vision tower"),
        Requirement("pad2square", (False,), False, "which the image processor cannot do"),
        Requirement("use_thumbnail", (True,), False, "which the image processor cannot do"),
        Requirement("use_backbone_lora", (0, False), 0, "whose adapters are not merged"),
        Requirement("use_llm_lora", (0, False), 0, "whose adapters are not merged"),
        Requirement("vision_config.norm_type", ("layer_norm", "rms_norm"), "rms_norm", "unknown"),
    ),
    build=build,
)
