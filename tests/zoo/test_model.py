"""The embedded model: what ships, what it knows, and that packing changes no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.zoo import FAMILIES, build_config, build_processor, embedded_path, load_split
from autoprune.zoo.measure import accuracy
from autoprune.zoo.packing import decode_places, pack
from autoprune.zoo.tower import rescale_tower, to_pixels, tower_features


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForImageTextToText

    loaded, info = AutoModelForImageTextToText.from_pretrained(
        embedded_path(), dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return loaded.eval()


@pytest.fixture(scope="module")
def processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(embedded_path(), backend="pil")


def prompt(processor, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )


def test_weights_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    files = [path for path in embedded_path().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    with safe_open(embedded_path() / "model.safetensors", "pt") as tensors:
        kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
    assert kinds == {"F16"}


def test_size_and_shape_are_those_of_the_configuration(model) -> None:
    assert 1_900_000 < sum(p.numel() for p in model.parameters()) < 2_200_000
    shipped, built = model.config.text_config, build_config().text_config
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        assert getattr(shipped, name) == getattr(built, name)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_pixels_and_features_are_those_of_the_processor(model, processor) -> None:
    images = [sample.image for sample in load_split("search", 4)]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    own = to_pixels(np.stack([np.asarray(image) for image in images]))
    torch.testing.assert_close(own, pixels, rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        seen = model.model.multi_modal_projector(tower_features(model.model.vision_tower, own))
    torch.testing.assert_close(seen, torch.stack(list(expected)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_packed_questions_are_answered_as_if_asked_alone(model, processor) -> None:
    samples = list(load_split("search", 6))
    asked = [[(t.question, t.answer, t.source) for t in sample.turns] for sample in samples]
    pixels = to_pixels(np.stack([np.asarray(sample.image) for sample in samples]))
    features = tower_features(model.model.vision_tower, pixels)
    packed = pack(asked, tuple(FAMILIES))
    logits, answers, _ = decode_places(model, packed, features, np.arange(6))
    alone = []
    for sample in samples:
        texts = [prompt(processor, turn.question) for turn in sample.turns]
        inputs = processor(
            images=[sample.image] * len(texts), text=texts, return_tensors="pt", padding=True
        )
        alone.append(model(**inputs).logits[:, -1])
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-3, atol=1e-3)
    tokens = processor.tokenizer.convert_ids_to_tokens(answers.tolist())
    assert tokens == [turn.answer for sample in samples for turn in sample.turns]


def test_generate_says_the_answer_and_stops(model, processor) -> None:
    right = total = 0
    for sample in load_split("confirm", 8):
        texts = [prompt(processor, turn.question) for turn in sample.turns]
        inputs = processor(
            images=[sample.image] * len(texts), text=texts, return_tensors="pt", padding=True
        )
        new = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = new[:, inputs["input_ids"].shape[1] :]
        said = processor.batch_decode(new, skip_special_tokens=True)
        assert (new[:, 1] == model.config.text_config.eos_token_id).all()
        right += sum(a.strip() == t.answer for a, t in zip(said, sample.turns, strict=True))
        total += len(texts)
    assert right / total > 0.85


def test_dense_model_is_far_above_chance_on_every_family(model) -> None:
    scores = accuracy(model, "confirm", 256)
    assert 0.9 < np.mean(list(scores.values())) < 0.995
    for name, family in FAMILIES.items():
        assert scores[name] > family.chance + 0.3, (name, scores[name])


def test_processor_saves_and_reloads_offline(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    built = build_processor()
    built.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, backend="pil", local_files_only=True)
    sample = load_split("report", 1)[0]
    text = prompt(built, sample.turns[0].question)
    assert prompt(loaded, sample.turns[0].question) == text
    assert text.startswith("<s>USER: <image>\n")
    assert text.endswith(" ASSISTANT:")
    first = built(images=sample.image, text=text, return_tensors="pt")
    second = loaded(images=sample.image, text=text, return_tensors="pt")
    assert (first["input_ids"] == second["input_ids"]).all()
    assert (first["pixel_values"] == second["pixel_values"]).all()


def test_rescaling_the_tower_keeps_directions() -> None:
    from transformers import CLIPVisionModel

    torch.manual_seed(0)
    tower = CLIPVisionModel(build_config().vision_config).eval()
    pixels = torch.randn(8, 3, 48, 48)
    with torch.no_grad():
        before = 7 * tower_features(tower, pixels)
        rescale_tower(tower, pixels)
        after = tower_features(tower, pixels)
    assert after.square().mean().item() == pytest.approx(1, abs=0.02)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    assert cosine.min() > 0.999
