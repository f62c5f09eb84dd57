"""What an image becomes, against what each family's processor and model make of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.families import CASES, IMAGE, Case, build_model
from transformers import CONFIG_MAPPING

from autoprune.cost.deployment import deployment_of
from autoprune.cost.images import Picture, picture_of
from autoprune.errors import AutoPruneError
from autoprune.models.families import CUTTINGS, WRAPPERS
from autoprune.models.loading import load_config
from autoprune.models.shape import meta_model

SEEING = {case.wrapper: case for case in CASES.values() if case.vision}

# Height and width in pixels: the usual square, either long side, tiny, and none even.
SIZES = [(448, 448), (448, 70), (60, 448), (20, 20), (123, 217), (33, 31)]

# How an image is asked for in a text, where not by <image>.
ASKED = {
    "internvl": "<IMG_CONTEXT>",
    "gemma3": "<start_of_image>",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|image_pad|>"),
}


def processed(processor: Any, wrapper: str, size: tuple[int, int], images: int = 1) -> Any:
    """What a processor makes of blank images and a word."""
    shown = [Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8))] * images
    text = " ".join([ASKED.get(wrapper, "<image>")] * images) + " red"
    return processor(images=[shown], text=[text], return_tensors="pt")


def saved(case: Case, place: Path, processor: Any = None) -> Any:
    """The configuration of a tiny model, read from where its processor lies too."""
    (processor or case.processor()).save_pretrained(place)
    case.config().save_pretrained(place)
    return load_config(place)


def agree(found: Picture, wrapper: str, inputs: Any) -> None:
    """Check a count against a processor's: features, tiles, and marks around them."""
    ids = inputs["input_ids"][0]
    assert found.features == int((ids == IMAGE).sum())
    if "image_grid_thw" not in inputs:
        assert found.tiles == inputs["pixel_values"].flatten(0, -4).shape[0]
    if found.marks:
        # Two line ends are one token of real tokenizers, and two of the tiny ones.
        ends = 2 if wrapper == "gemma3" else int(found.tiles > 1 and wrapper != "internvl")
        assert len(ids) - found.features == found.marks + ends + 1  # the word


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("wrapper", SEEING)
def test_as_processor_and_model_have_it(
    wrapper: str, size: tuple[int, int], tmp_path: Path
) -> None:
    config = saved(SEEING[wrapper], tmp_path)
    inputs = processed(SEEING[wrapper].processor(), wrapper, size)
    agree(picture_of(meta_model(config), size=size), wrapper, inputs)
    if size == (123, 217):
        inputs.pop("num_crops", None)
        with torch.no_grad():  # refuses another number of features than of places
            build_model(SEEING[wrapper].config())(**inputs)


def test_every_way_of_cutting_is_tested() -> None:
    assert {row.cutting for row in WRAPPERS.values() if row.projector} == set(CUTTINGS)
    assert set(SEEING) == {row.model_type for row in WRAPPERS.values() if row.projector}


# Settings that published models have: tower, processor, tokens of 448 x 448 and 640 x 480 pixels.
CLIP = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONE = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
NARROW = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Any], None], int, int]]
PUBLISHED = {
    "LLaVA-1.6": (
        "llava_next", CLIP, {"image_grid_pinpoints": NEXT},
        lambda p: _set(p, patch_size=14, image_processor={
            "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336},
            "image_grid_pinpoints": NEXT}),
        2928, 2340,
    ),
    "LLaVA-OneVision": (
        "llava_onevision", SIGLIP,
        {"image_grid_pinpoints": ONE, "vision_feature_select_strategy": "full"},
        lambda p: _set(p, num_image_tokens=729, image_processor={
            "size": {"height": 384, "width": 384}, "image_grid_pinpoints": ONE}),
        3699, 2929,
    ),
    "InternVL3": (
        "internvl", {"image_size": [448, 448], "patch_size": [14, 14]}, {},
        lambda p: _set(p, image_seq_length=256, image_processor={
            "size": {"height": 448, "width": 448}, "max_patches": 12}),
        258, 3330,
    ),
    "Idefics3-8B": (
        "idefics3", {"image_size": 364, "patch_size": 14}, {"scale_factor": 2},
        lambda p: _set(p, image_seq_len=169, image_processor={
            "size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}}),
        2912, 2227,
    ),
    "SmolVLM-256M": (
        "smolvlm", {"image_size": 512, "patch_size": 16}, {"scale_factor": 4},
        lambda p: _set(p, image_seq_len=64, image_processor={
            "size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}),
        1127, 862,
    ),
}  # fmt: skip


def _set(processor: Any, *, image_processor: dict[str, Any], **values: Any) -> None:
    for name, value in values.items():
        setattr(processor, name, value)
    kind = type(processor.image_processor)
    processor.image_processor = kind(**image_processor)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str, tmp_path: Path) -> None:
    wrapper, tower, more, change, square, photo = PUBLISHED[name]
    processor = SEEING[wrapper].processor()
    change(processor)
    processor.save_pretrained(tmp_path)
    text = {"model_type": SEEING[wrapper].text}
    config = SEEING[wrapper].config(max_position_embeddings=1 << 16)
    config = CONFIG_MAPPING[wrapper](
        vision_config={**NARROW, "num_hidden_layers": 2, **tower},
        text_config={**config.text_config.to_dict(), **text},
        image_token_id=IMAGE,
        **more,
    )
    config.save_pretrained(tmp_path)
    model = meta_model(load_config(tmp_path))
    for size, tokens in (((448, 448), square), ((480, 640), photo)):
        found = picture_of(model, size=size)
        assert found.tokens == tokens
        assert found == picture_of(model, processor.image_processor.to_dict(), size=size)
        agree(found, wrapper, processed(processor, wrapper, size))
    # The configuration alone says as much, but how InternVL's processor was set up.
    alone = picture_of(model, {}, size=(480, 640))
    assert (alone.tiles, alone.tokens) == (found.tiles, found.tokens)
    assert ("by default" in alone.assumed) == (wrapper in ("internvl", "idefics3", "smolvlm"))
    assert "by default" not in found.assumed


def test_several_images_are_not_cut_where_the_processor_cuts_one_alone(tmp_path: Path) -> None:
    config = saved(SEEING["llava_onevision"], tmp_path)
    for images in (1, 2):
        inputs = processed(
            SEEING["llava_onevision"].processor(), "llava_onevision", (99, 99), images
        )
        found = picture_of(meta_model(config), images=images, size=(99, 99))
        assert images * found.features == int((inputs["input_ids"] == IMAGE).sum())


@pytest.mark.parametrize("wrapper", SEEING)
def test_the_prompt_says_what_was_counted(wrapper: str, tmp_path: Path) -> None:
    config = saved(SEEING[wrapper], tmp_path)
    found, picture = deployment_of(config), picture_of(meta_model(config))
    assert (found.image_tokens, found.image) == (picture.tokens, picture.assumed)
    assert ("448 x 448 pixels" in found.said) == bool(picture.assumed)
    given = deployment_of(config, image_tokens=7)
    assert given.said.endswith("1 image of 7 tokens")
    if picture.tiles > 1:
        # The tower's room grows with the tiles.
        one = deployment_of(config, image_tokens=picture.features // picture.tiles)
        assert math.isclose(found.vision_room, picture.tiles * one.vision_room, rel_tol=0.01)


@pytest.mark.parametrize(
    ("file", "settings", "tokens"),
    [
        ("preprocessor_config.json", {"min_pixels": 64, "max_pixels": 32 * 32}, 16),
        ("preprocessor_config.json", {"size": {"shortest_edge": 64, "longest_edge": 1024}}, 16),
        ("preprocessor_config.json", {"size": 336, "min_pixels": None}, 3136),
        ("processor_config.json", {"image_processor": {"max_pixels": 1024}}, 16),
        ("processor_config.json", {"image_seq_length": 4}, 3136),  # the other file has the rest
    ],
)
def test_settings_are_read_as_earlier_versions_wrote_them_too(
    file: str, settings: dict[str, Any], tokens: int, tmp_path: Path
) -> None:
    # Patches of 4 pixels, four a token.
    SEEING["qwen2_vl"].config().save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps(settings))
    assert picture_of(meta_model(load_config(tmp_path))).tokens == tokens


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    SEEING["idefics3"].config().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(AutoPruneError, match=r"preprocessor_config\.json cannot be read"):
        deployment_of(load_config(tmp_path))
