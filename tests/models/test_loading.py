"""Loading: what comes back, and the one line for each thing that cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import (
    IMAGE_TOKENS,
    tiny_checkpoint,
    tiny_inputs,
    tiny_model,
    tiny_text_config,
    tiny_tokenizer,
)

from autoprune.errors import AutoPruneError
from autoprune.models import files
from autoprune.models.loading import inspect_model, load_model
from autoprune.models.shape import spec_of
from autoprune.pipeline.prepare import inspect


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny-llava", tied=False)


def edit(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; a name with two underscores reaches into a section."""
    data = json.loads(path.read_text())
    for name, value in changes.items():
        section = data
        *outer, last = name.split("__")
        for key in outer:
            section = section[key]
        section[last] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("tied", [True, False])
def test_loads_what_was_saved(tmp_path: Path, tied: bool) -> None:
    directory = tiny_checkpoint(tmp_path / "model", tied=tied)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    loaded = load_model(directory)
    model = tiny_model(tied=tied)
    assert torch.equal(loaded.model(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    assert loaded.spec == spec_of(model)
    assert loaded.licence == "apache-2.0"
    assert loaded.vision
    assert not loaded.model.training
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}]
    text = loaded.processor.apply_chat_template(messages, add_generation_prompt=True)
    import numpy as np

    image = np.zeros((40, 40, 3), dtype=np.uint8)
    ids = loaded.processor(images=[image], text=[text])["input_ids"][0]
    assert list(ids).count(4) == IMAGE_TOKENS
    assert type(loaded.processor.image_processor).__name__.endswith("Pil")


def test_loads_a_plain_language_model(tmp_path: Path) -> None:
    model = tiny_model(tiny_text_config())
    model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    loaded = load_model(tmp_path / "lm")
    inputs = tiny_inputs(images=False)
    assert torch.equal(loaded.model(**inputs).logits, model(**inputs).logits)
    assert not loaded.vision


def test_loads_shards_and_half_precision(tmp_path: Path) -> None:
    directory = tiny_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    tiny_model().to(torch.float16).save_pretrained(directory, max_shard_size="50KB")
    assert (directory / "model.safetensors.index.json").is_file()
    loaded = load_model(directory)
    assert loaded.model.dtype == torch.float32
    assert load_model(directory, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_named_models_resolve(tiny: Path) -> None:
    loaded = load_model("embedded", named={"embedded": lambda: tiny})
    assert loaded.ref == "embedded"
    assert loaded.directory == tiny


def test_identity_is_of_config_and_every_byte(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = inspect_model(tiny).identity
    assert inspect_model(tiny).identity == first
    edit(tiny / "config.json", transformers_version="0", dtype="float32")
    assert inspect_model(tiny).identity == first, "notes do not count"
    edit(tiny / "config.json", text_config__rms_norm_eps=1e-5)
    second = inspect_model(tiny).identity
    assert second != first
    weights = tiny / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    third = inspect_model(tiny).identity
    assert third not in (first, second)
    monkeypatch.setattr(files, "FULL_HASH_BYTES", 0)
    assert inspect_model(tiny).identity not in (first, second, third)


def truncate(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def shard(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    tiny_model(tied=False).save_pretrained(directory, max_shard_size="50KB")


def lose_a_shard(directory: Path) -> None:
    shard(directory)
    sorted(directory.glob("*.safetensors"))[0].unlink()


def swap_a_shard(directory: Path) -> None:
    shard(directory)
    first, second, *_ = sorted(directory.glob("*.safetensors"))
    first.write_bytes(second.read_bytes())


def only_pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def tensors(directory: Path, change: Any) -> None:
    held = load_file(directory / "model.safetensors")
    change(held)
    save_file(held, directory / "model.safetensors", metadata={"format": "pt"})


Q = "language_model.model.layers.1.self_attn.q_proj.weight"
HEAD = "language_model.lm_head.weight"
TOWER = "vision_tower.vision_model.post_layernorm.weight"

BROKEN: dict[str, tuple[Any, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), "cannot be read"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "has no weights"),
    "pickled weights": (only_pickled, "pickled weights only"),
    "truncated": (truncate, "truncated or damaged"),
    "no safetensors": (
        lambda d: (d / "model.safetensors").write_bytes(b"hello, I am no weights"),
        "truncated or damaged",
    ),
    "header of another kind": (lambda d: safetensors(d, []), "truncated or damaged"),
    "header without places": (
        lambda d: safetensors(d, {"a": {"dtype": "F32", "shape": [1]}}),
        "truncated or damaged",
    ),
    "index of another kind": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}'),
        "index.json does not say",
    ),
    "no heads said": (
        lambda d: edit(d / "config.json", text_config__num_key_value_heads=0),
        "config.json is not valid",
    ),
    "damaged generation settings": (
        lambda d: (d / "generation_config.json").write_text("{"),
        "generation_config.json cannot be read",
    ),
    "empty file": (lambda d: (d / "model.safetensors").write_bytes(b""), "truncated or damaged"),
    "missing shard": (lose_a_shard, "missing shard"),
    "foreign shard": (swap_a_shard, "shards of one checkpoint"),
    "no tokenizer": (
        lambda d: [p.unlink() for p in d.glob("tokenizer*")],
        "has no tokenizer",
    ),
    "no processor": (lambda d: (d / "processor_config.json").unlink(), "has no processor"),
    "damaged processor": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        "processor of .* cannot be loaded",
    ),
    "unknown architecture": (
        lambda d: edit(d / "config.json", model_type="fuyu"),
        "'fuyu' .* not supported: use one of .*llava",
    ),
    "unknown backbone": (
        lambda d: edit(d / "config.json", text_config__model_type="opt"),
        "'opt' cannot be pruned yet: .* llama",
    ),
    "other widths": (
        lambda d: edit(d / "config.json", text_config__intermediate_size=30),
        r"layers.0.mlp.gate_proj.weight in model.safetensors has shape \[24, 32\]",
    ),
    "fewer layers said": (
        lambda d: edit(d / "config.json", text_config__num_hidden_layers=3),
        "holds layer 3 and its config.json says 3",
    ),
    "more layers said": (
        lambda d: edit(d / "config.json", text_config__num_hidden_layers=5),
        "lacks layers.4",
    ),
    "other tower": (
        lambda d: edit(d / "config.json", vision_config__intermediate_size=40),
        "config.json",
    ),
    "other vocabulary": (
        lambda d: edit(d / "config.json", text_config__vocab_size=99),
        "config.json",
    ),
    "bias lost": (
        lambda d: edit(d / "config.json", text_config__attention_bias=True),
        "lacks layers.0.self_attn",
    ),
    "head lost": (lambda d: tensors(d, lambda t: t.pop(find(t, HEAD))), "tie_word_embeddings"),
    "tied by mistake": (
        lambda d: edit(d / "config.json", tie_word_embeddings=True),
        "tie_word_embeddings",
    ),
    "tower tensor lost": (lambda d: tensors(d, lambda t: t.pop(find(t, TOWER))), "lacks .*norm"),
    "layer tensor lost": (lambda d: tensors(d, lambda t: t.pop(find(t, Q))), "lacks layers.1"),
    "foreign tensor": (
        lambda d: tensors(d, lambda t: t.update(adapter=torch.zeros(2))),
        "holds adapter",
    ),
}


def safetensors(directory: Path, header: Any) -> None:
    said = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(said).to_bytes(8, "little") + said)


def find(held: dict[str, torch.Tensor], name: str) -> str:
    """Find a tensor by its end, because releases differ in what stands before it."""
    tail = name.split(".layers.")[-1].split("vision_model.")[-1].removeprefix("language_model.")
    return next(key for key in held if key.endswith(tail))


@pytest.mark.parametrize("fault", BROKEN, ids=str)
def test_faults_take_one_line(tiny: Path, fault: str) -> None:
    breaks, says = BROKEN[fault]
    breaks(tiny)
    with pytest.raises(AutoPruneError, match=says) as caught:
        load_model(tiny)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value), "the mend follows the fault"


@pytest.mark.parametrize("fault", sorted(set(BROKEN) - {"damaged processor"}))
def test_a_search_refuses_them_before_it_starts(tiny: Path, fault: str) -> None:
    """A search reads weights where they lie: another reader than ``load_model``'s, as strict."""
    breaks, says = BROKEN[fault]
    breaks(tiny)
    with pytest.raises(AutoPruneError, match=says) as caught:
        inspect(str(tiny))
    assert "\n" not in str(caught.value)


def test_generation_settings_count_as_how_text_is_answered(tiny: Path) -> None:
    """Scores of the dense model are kept by this hash, and its end tokens decide answers."""
    before = files.processor_identity(tiny)
    edit(tiny / "generation_config.json", eos_token_id=[2, 5])
    assert files.processor_identity(tiny) != before


# What needs the tensors themselves, or a processor's parser, to be seen.
LATE = {"other tower", "other vocabulary", "tied by mistake", "foreign tensor"}
LATE |= {"tower tensor lost", "damaged processor"}


@pytest.mark.parametrize("fault", sorted(set(BROKEN) - LATE))
def test_cheap_checks_come_before_loading(tiny: Path, fault: str) -> None:
    breaks, says = BROKEN[fault]
    breaks(tiny)
    with pytest.raises(AutoPruneError, match=says):
        inspect_model(tiny)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("embeded", r"does not exist \(did you mean 'embedded'"),
        ("org/model-7b", "neither a directory nor in the local cache"),
        ("nowhere/deep/down", "does not exist"),
        ("", "does not exist"),
    ],
)
def test_unknown_models(ref: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AutoPruneError, match=says) as caught:
        load_model(ref, named={"embedded": lambda: Path("x")})
    assert "\n" not in str(caught.value)


def test_nearest_directory_is_named(tiny: Path) -> None:
    with pytest.raises(AutoPruneError, match="did you mean 'tiny-llava'"):
        load_model(tiny.parent / "tiny-lava")
    with pytest.raises(AutoPruneError, match="is a file"):
        load_model(tiny / "config.json")


# where a directory lies, what its configuration says of itself, and what it comes from
ORIGINS: list[tuple[str, str | None, str | None]] = [
    ("mine", None, None),
    ("mine", "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
    ("mine", "/data/llava-hf/llava-1.5-7b-hf", None),
    ("mine", "./llava-hf/llava-1.5-7b-hf", None),
    ("mine", "llava-1.5-7b", None),
    ("mine", "checkpoints/llava-1.5-7b", None),
    ("models--llava-hf--llava-1.5-7b-hf/snapshots/abc", None, "llava-hf/llava-1.5-7b-hf"),
    ("models--gpt2/snapshots/abc", None, None),
]


@pytest.mark.parametrize(("place", "said", "origin"), ORIGINS)
def test_what_a_directory_comes_from(
    place: str, said: str | None, origin: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    named = {} if said is None else {"_name_or_path": said}
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **named}))
    assert files.origin_of(folder) == origin
