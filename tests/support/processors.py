"""Real processors of the tiny models: each family's class, over a vocabulary of whole words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 64
PAD, BOS, EOS, UNK = 0, 1, 2, 3
IMAGE, VIDEO, START, END = 60, 61, 62, 63
SIZE = {"height": 32, "width": 32}
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
WORDS = [
    *("user:", "assistant:", "what", "is", "the", "digit", "colour", "left", "right", "of", "and"),
    *("how", "many", "?", "on", "at", "are", "answer", "en"),
    *("red", "green", "blue", "yes", "no", *"0123456789"),
]

# What a family calls the image, a video, and the start and end of either; then more of its own.
_MARKS: dict[str, tuple[tuple[str, str, str, str], dict[str, str], tuple[str, ...]]] = {
    "internvl": (
        ("<IMG_CONTEXT>", "<video>", "<img>", "</img>"),
        {
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
        },
        (),
    ),
    "gemma3": (
        ("<image_soft_token>", "<video>", "<start_of_image>", "<end_of_image>"),
        {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        (),
    ),
    "idefics3": (
        ("<image>", "<video>", "<fake_token_around_image>", "<end_of_utterance>"),
        {},
        ("<global-img>", "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>"),
    ),
}
_MARKS["smolvlm"] = _MARKS["idefics3"]
_QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_MARKS |= {name: (_QWEN, {}, ()) for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")}
_USUAL = (("<image>", "<video>", "<start>", "<end>"), {"image_token": "<image>"}, ())

# What stands for an image in a conversation.
_SHOWN = {"internvl": "<IMG_CONTEXT>\n", "gemma3": "<start_of_image>"}
_SHOWN |= dict.fromkeys(
    ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|vision_start|><|image_pad|><|vision_end|>"
)


def chat_template(wrapper: str) -> str:
    """A conversation of turns that each end in the end token."""
    shown = _SHOWN.get(wrapper, "<image>").replace("\n", "\\n")
    return (
        "{{ '<s>' }}{% for message in messages %}"
        "{{ 'user: ' if message['role'] == 'user' else ' assistant: ' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "{{ '" + shown + "' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' assistant:' }}{% endif %}"
    )


def tokenizer_for(wrapper: str, words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A vocabulary of ``words`` around the family's special tokens, which keep their ids."""
    marks, named, more = _MARKS.get(wrapper, _USUAL)
    fixed = {PAD: "<pad>", BOS: "<s>", EOS: "</s>", UNK: "<unk>"}
    fixed |= dict(zip((IMAGE, VIDEO, START, END), marks, strict=True))
    wanted = iter(["\n", *more, *(WORDS if words is None else words)])
    vocabulary: dict[str, int] = {}
    place = 0
    while place <= END or fixed:
        token = fixed.pop(place, None) or next(wanted, f"<{place}>")
        vocabulary[token] = place
        place += 1
    vocabulary |= {word: place + i for i, word in enumerate(wanted)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(
        pattern=Regex(r"[\w:-]+|\?"), behavior="removed", invert=True
    )
    core.add_special_tokens([AddedToken(t, normalized=False) for t in (*marks, *more)])
    core.add_tokens([AddedToken("\n", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=named,
        chat_template=None if wrapper == "paligemma" else chat_template(wrapper),
    )


def _llava(tokenizer: Any, template: str) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    images = LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)
    return LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="full",
        num_additional_image_tokens=0, chat_template=template,
    )  # fmt: skip


def _internvl(tokenizer: Any, template: str) -> Any:
    from transformers import InternVLProcessor, InternVLVideoProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        GotOcr2ImageProcessorPil,
    )

    images = GotOcr2ImageProcessorPil(size=SIZE, min_patches=1, max_patches=2)
    return InternVLProcessor(
        images, tokenizer, InternVLVideoProcessor(size=SIZE), image_seq_length=4,
        chat_template=template,
    )  # fmt: skip


def _llava_next(tokenizer: Any, template: str) -> Any:
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=SIZE, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def _llava_onevision(tokenizer: Any, template: str) -> Any:
    from transformers import LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    images = LlavaOnevisionImageProcessorPil(size=SIZE, image_grid_pinpoints=PINPOINTS)
    return LlavaOnevisionProcessor(
        images, tokenizer, LlavaOnevisionVideoProcessor(size=SIZE), num_image_tokens=4,
        vision_feature_select_strategy="full", chat_template=template,
    )  # fmt: skip


def _qwen(processor: str, video: str) -> Callable[[Any, str], Any]:
    def make(tokenizer: Any, template: str) -> Any:
        import transformers
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        patches = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
        size = {"shortest_edge": 16 * 16, "longest_edge": 24 * 24}
        images = Qwen2VLImageProcessorPil(**patches, size=size)
        videos = getattr(transformers, video)(**patches)
        kind = getattr(transformers, processor)
        return kind(images, tokenizer, videos, chat_template=template)

    return make


def _gemma3(tokenizer: Any, template: str) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    images = Gemma3ImageProcessorPil(size=SIZE, image_seq_length=4)
    return Gemma3Processor(images, tokenizer, template, image_seq_length=4)


def _idefics3(tokenizer: Any, template: str) -> Any:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


def _smolvlm(tokenizer: Any, template: str) -> Any:
    from transformers import SmolVLMProcessor, SmolVLMVideoProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    videos = SmolVLMVideoProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=template)


def _paligemma(tokenizer: Any, template: str) -> Any:
    from transformers import PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size=SIZE)
    images.image_seq_length = 4
    return PaliGemmaProcessor(images, tokenizer)  # no chat template, as in the original


_PROCESSORS: dict[str, Callable[[Any, str], Any]] = {
    "llava": _llava,
    "internvl": _internvl,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": _qwen("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "paligemma": _paligemma,
}


def processor_for(wrapper: str, words: list[str] | None = None) -> Any:
    """The processor of a wrapper's tiny model; a tokenizer for a plain language model.

    With ``words`` of its own the vocabulary grows to hold them all.
    """
    tokenizer = tokenizer_for(wrapper, words)
    make = _PROCESSORS.get(wrapper)
    return tokenizer if make is None else make(tokenizer, chat_template(wrapper))
