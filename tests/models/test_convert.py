"""Converted checkpoints compute what the originals do, and nothing wrong is ever written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import originals
from support.original_forward import (
    bunny_features,
    bunny_logits,
    internvl_features,
    internvl_logits,
)
from support.originals import (
    SYSTEM,
    TOWER,
    TOWER_NAME,
    read_tensors,
    write_bunny,
    write_internvl,
)
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from autoprune.errors import AutoPruneError
from autoprune.models.convert import bunny, run
from autoprune.models.convert.proof import prove_load
from autoprune.models.convert.run import convert_checkpoint
from autoprune.models.convert.tokens import space_before
from autoprune.models.loading import load_model, load_processor

QUESTION = "what is the digit?"
YARN = {**originals.INTERNVL_CONFIG["llm_config"]["rope_scaling"], "type": "yarn"}
OLDER_TOWER = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}


@pytest.fixture(autouse=True)
def tiny_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bunny.TOWERS, TOWER_NAME, TOWER)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the fresh process where a test is about something else."""
    monkeypatch.setattr(run, "prove_load", lambda directory, model_class, digests: None)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def asked(image: bool = True) -> list[dict[str, Any]]:
    parts = [{"type": "image"}] if image else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]


def loaded(directory: Path, attention: str = "sdpa") -> tuple[Any, Any]:
    model, info = AutoModelForImageTextToText.from_pretrained(
        directory, output_loading_info=True, attn_implementation=attention
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]  # noqa: PT018
    return model.eval(), load_processor(directory, vision=True)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def bunny_against_original(source: Path, out: Path, attention: str) -> tuple[float, float]:
    """Return the relative differences of features and of logits."""
    tensors, config = read_tensors(source), json.loads((source / "config.json").read_text())
    model, processor = loaded(out, attention)
    text = processor.apply_chat_template(asked(), add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[picture(40, 30)], text=[text], return_tensors="pt")
    features = bunny_features(tensors, TOWER, inputs["pixel_values"])
    before, after = text.split("<image>")
    ids = [
        *processor.tokenizer(before)["input_ids"],
        -200,
        *processor.tokenizer(after)["input_ids"],
    ]
    expected = bunny_logits(tensors, config, ids, features[0])
    found = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
    logits = model(**inputs).logits[0, :, : config["vocab_size"]]
    return relative(found, features[0]), relative(logits, expected)


@torch.no_grad()
def internvl_against_original(
    source: Path,
    out: Path,
    attention: str,
    question: list[dict[str, Any]],
    transposed: bool = False,
) -> tuple[float, float, int]:
    """Return the relative differences of features and of logits, and the tokens of the text."""
    tensors, config = read_tensors(source), json.loads((source / "config.json").read_text())
    model, processor = loaded(out, attention)
    text = processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[picture(60, 50)], text=[text], return_tensors="pt")
    features = internvl_features(tensors, config, inputs["pixel_values"], transposed)
    ids = inputs["input_ids"][0]
    image_id = processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    expected = internvl_logits(tensors, config, ids, image_id, features)
    found = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    logits = model(**inputs).logits[0, :, : config["llm_config"]["vocab_size"]]
    return relative(found, features), relative(logits, expected), len(ids)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tower_layers", [2, 3], ids=["hub", "whole-tower"])
def test_bunny_computes_what_the_original_does(
    tmp_path: Path, unproved: None, tower_layers: int, attention: str
) -> None:
    source = write_bunny(tmp_path / "source", tower_layers=tower_layers)
    out = convert_checkpoint(source, tmp_path / "out").path
    features, logits = bunny_against_original(source, out, attention)
    assert features <= 1e-5
    assert logits <= 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ({}, {}),
        (OLDER_TOWER, {"rope_scaling": YARN}),
        ({}, {"original_max_position_embeddings": 16}),
    ],
    ids=["published", "older-tower-yarn", "beyond-original-length"],
)
def test_internvl_computes_what_the_original_does(
    tmp_path: Path, unproved: None, vision: Any, text: Any, attention: str
) -> None:
    source = write_internvl(tmp_path / "source", vision=vision, text=text)
    out = convert_checkpoint(source, tmp_path / "out").path
    features, logits, length = internvl_against_original(source, out, attention, asked())
    original = text.get("original_max_position_embeddings")
    assert length < 64 if original is None else length > original, "long factors only beyond it"
    assert features <= 1e-5
    assert logits <= 1e-5


def test_the_comparison_bites(tmp_path: Path, unproved: None) -> None:
    """Wrong readings of the layouts differ by far more than the tolerance."""
    source = write_internvl(tmp_path / "internvl")
    out = convert_checkpoint(source, tmp_path / "internvl-out").path
    _, transposed, _ = internvl_against_original(source, out, "sdpa", asked(), transposed=True)
    assert transposed > 1e-2
    source = write_bunny(tmp_path / "bunny")
    out = convert_checkpoint(source, tmp_path / "bunny-out").path
    config = json.loads((out / "config.json").read_text())
    for change in (
        lambda c: c.update(vision_feature_layer=-2),
        lambda c: c["text_config"]["rope_parameters"].update(partial_rotary_factor=0.6),
    ):
        wrong = json.loads(json.dumps(config))
        change(wrong)
        (out / "config.json").write_text(json.dumps(wrong))
        assert bunny_against_original(source, out, "sdpa")[1] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_bunny, write_internvl])
def test_result_is_proved_and_used_by_autoprune(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    said: list[str] = []
    source = write(tmp_path / "source")
    out = tmp_path / "deep" / "out"
    done = convert_checkpoint(source, out, on_stage=said.append)
    assert done.proof.image_tokens == 4
    assert done.proof.tensors == len(read_tensors(out))
    assert said == [
        f"file 1 of 1: {done.proof.tensors} tensors, 0 MiB",
        "loading it in a fresh process",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing is left beside it"
    found = load_model(out)
    assert type(found.model).__name__ == done.model_class
    assert found.spec.total_params == done.parameters
    assert json.loads(json.dumps(done.to_dict()))["proof"]["tensors"] == done.proof.tensors
    assert found.licence == ("apache-2.0" if write is write_bunny else None)


@pytest.mark.slow
def test_proof_sees_another_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files change between writing and proving."""
    source = write_bunny(tmp_path / "source")

    def spoil(directory: Path, model_class: str, digests: Mapping[str, str]) -> Any:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors["language_model.model.final_layernorm.bias"][3] += 1e-6
        save_file(tensors, path, metadata={"format": "pt"})
        return prove_load(directory, model_class, digests)

    monkeypatch.setattr(run, "prove_load", spoil)
    with pytest.raises(AutoPruneError, match=r"different tensor model\.language_model\.final_lay"):
        convert_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_weights_keep_values_and_type(tmp_path: Path, unproved: None) -> None:
    source = write_bunny(tmp_path / "source", dtype=torch.float16)
    done = convert_checkpoint(source, tmp_path / "out", shard_bytes=30_000)
    old, new = read_tensors(source), read_tensors(done.path)
    files = sorted(done.path.glob("model-*.safetensors"))
    assert len(files) == done.shards > 1
    for file in files:
        assert file.stat().st_size < 35_000 or len(load_file(file)) == 1
    index = json.loads((done.path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.nbytes
    assert set(index["weight_map"]) == set(new)
    assert {tensor.dtype for tensor in new.values()} == {torch.float16}
    for name in ("embed_tokens", "lm_head"):
        full = "model.embed_tokens.weight" if name == "embed_tokens" else "lm_head.weight"
        grown = next(tensor for key, tensor in new.items() if f"{name}.weight" in key)
        assert torch.equal(grown[:-1], old[full])
        assert torch.allclose(grown[-1].float(), old[full].float().mean(0), atol=1e-3)
    assert torch.equal(
        new["multi_modal_projector.linear_2.weight"], old["model.mm_projector.2.weight"]
    )
    assert any("float16" in note for note in done.notes)
    config = json.loads((done.path / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert not list(done.path.rglob("*.py")), "no code is carried along"


def test_fused_queries_are_split_in_order(tmp_path: Path, unproved: None) -> None:
    source = write_internvl(tmp_path / "source")
    out = convert_checkpoint(source, tmp_path / "out").path
    old, new = read_tensors(source), read_tensors(out)
    for kind in ("weight", "bias"):
        parts = [new[f"vision_tower.encoder.layer.1.attention.{p}_proj.{kind}"] for p in "qkv"]
        assert torch.equal(torch.cat(parts), old[f"vision_model.encoder.layers.1.attn.qkv.{kind}"])


def test_new_tokens_are_never_the_likeliest(tmp_path: Path, unproved: None) -> None:
    out = convert_checkpoint(write_bunny(tmp_path / "source"), tmp_path / "out").path
    model, _ = loaded(out)
    hidden = torch.randn(200, 40)
    logits = model.lm_head(hidden)
    assert int((logits.argmax(-1) == logits.shape[-1] - 1).sum()) == 0


def test_bunny_processor(tmp_path: Path, unproved: None) -> None:
    out = convert_checkpoint(write_bunny(tmp_path / "source"), tmp_path / "out").path
    processor = load_processor(out, vision=True)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "red 3"}]}
    more = {"role": "user", "content": "and?"}
    text = processor.apply_chat_template(
        [*asked(), answer, more], add_generation_prompt=True, tokenize=False
    )
    system, _, talk = text.partition(" USER: ")
    assert system.startswith("A chat between a curious user")
    assert talk == f"<image>\n{QUESTION} ASSISTANT: red 3<|endoftext|>USER: and? ASSISTANT:"
    own = [{"role": "system", "content": "IMAGE and SYSTEM."}, *asked(image=False)]
    assert (
        processor.apply_chat_template(own, tokenize=False) == f"IMAGE and SYSTEM. USER: {QUESTION} "
    )
    # A wide image stands in the middle of a grey square.
    wide = picture(56, 28)
    square = Image.new("RGB", (56, 56), (127, 127, 127))
    square.paste(wide, (0, 14))
    expected = np.asarray(square.resize((28, 28), Image.Resampling.BICUBIC)) / 127.5 - 1
    pixels = processor.image_processor(images=[wide], return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), expected, atol=1e-5)
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id
    generation = GenerationConfig.from_pretrained(out)
    assert generation.eos_token_id == processor.tokenizer.eos_token_id


def test_bunny_without_padding_resizes_to_a_square(tmp_path: Path, unproved: None) -> None:
    source = write_bunny(tmp_path / "source", changes={"image_aspect_ratio": "uniform"})
    out = convert_checkpoint(source, tmp_path / "out").path
    wide = picture(56, 28)
    expected = np.asarray(wide.resize((28, 28), Image.Resampling.BICUBIC)) / 127.5 - 1
    processor = load_processor(out, vision=True)
    pixels = processor.image_processor(images=[wide], return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), expected, atol=1e-5)


def test_internvl_processor(tmp_path: Path, unproved: None) -> None:
    out = convert_checkpoint(write_internvl(tmp_path / "source"), tmp_path / "out").path
    processor = AutoProcessor.from_pretrained(out)
    answer = {"role": "assistant", "content": "red 3"}
    text = processor.apply_chat_template(
        [*asked(), answer, *asked(image=False)], add_generation_prompt=True, tokenize=False
    )
    assert text == (
        f"<|system|>\n{SYSTEM}<|end|><|user|>\n<IMG_CONTEXT>\n{QUESTION}<|end|><|assistant|>\n"
        f"red 3<|end|><|user|>\n{QUESTION}<|end|><|assistant|>\n"
    )
    # Three tiles side by side and a thumbnail, four tokens each.
    inputs = processor(images=[picture(170, 56)], text=[text], return_tensors="pt")
    assert tuple(inputs["pixel_values"].shape) == (4, 3, 56, 56)
    said = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert said.count("<IMG_CONTEXT>") == 16
    assert said.count("<img>") == said.count("</img>") == 1
    generation = GenerationConfig.from_pretrained(out)
    ids = processor.tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])
    assert generation.eos_token_id == ids


def test_internvl_without_tiles_or_conversation(tmp_path: Path, unproved: None) -> None:
    source = write_internvl(
        tmp_path / "source", changes={"dynamic_image_size": False}, conversation=False
    )
    done = convert_checkpoint(source, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(done.path)
    text = processor.apply_chat_template(asked(), add_generation_prompt=True, tokenize=False)
    assert text == f"<|user|>\n<IMG_CONTEXT>\n{QUESTION}<|end|><|assistant|>\n"
    inputs = processor(images=[picture(170, 56)], text=[text], return_tensors="pt")
    assert tuple(inputs["pixel_values"].shape) == (1, 3, 56, 56)
    assert any("conversation.py" in note for note in done.notes)


@pytest.mark.parametrize("write", [write_bunny, write_internvl])
def test_words_keep_their_tokens(
    tmp_path: Path, unproved: None, write: Callable[[Path], Path]
) -> None:
    source = write(tmp_path / "source")
    original = Tokenizer.from_file(str(source / "tokenizer.json"))
    out = convert_checkpoint(source, tmp_path / "out").path
    tokenizer = AutoProcessor.from_pretrained(out).tokenizer
    for text in ("A  chat\n    with é 数.", " red<|endoftext|>USER: 3", "<|end|>\nwhat?<img>"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == original.encode(text).ids


def test_a_bare_sentencepiece_model_is_read(tmp_path: Path, unproved: None) -> None:
    """InternVL's tokenizers are saved in their slow form: words begin with a space."""
    source = write_internvl(tmp_path / "source")
    size = originals.use_sentencepiece(source)
    assert size == json.loads((source / "config.json").read_text())["llm_config"]["vocab_size"]
    out = convert_checkpoint(source, tmp_path / "out").path
    tokenizer = AutoProcessor.from_pretrained(out).tokenizer
    said = tokenizer.convert_ids_to_tokens(tokenizer("the digit<|end|>")["input_ids"])
    assert said[:2] == ["<s>", "▁the"]
    assert said[-1] == "<|end|>"
    prompt = tokenizer.apply_chat_template(asked(image=False), tokenize=False)
    begins = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])[:4]
    assert begins == ["<s>", "▁", "<|system|>", "<0x0A>"], "the slow form sees a space there"
    roles = {"additional_special_tokens": ["<|system|>"]}
    (source / "special_tokens_map.json").write_text(json.dumps(roles))
    assert not space_before(source, "<|system|>"), "but not before a token that it lists"
    assert space_before(source, "<|user|>")
    text = f"<|user|>\n<img></img>{QUESTION}<|end|>"
    tags = [
        token for token in tokenizer.tokenize(text) if token.startswith("<") and "0x" not in token
    ]
    assert tags == ["<|user|>", "<img>", "</img>", "<|end|>"]
