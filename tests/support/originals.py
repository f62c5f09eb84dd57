"""Tiny random checkpoints in the layouts of Bunny and InternVL, as their authors publish them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from autoprune.models.convert.bunny import Tower

TOWER_NAME = "tiny-siglip"
TOWER = Tower(hidden_size=16, intermediate_size=24, layers=3, heads=2, image_size=28, patch_size=14)
TEXT = ["USER: what is the digit on the left ? ASSISTANT: red 0123456789", "A chat between a user"]
SYSTEM = "You read digits."

BUNNY_CONFIG: dict[str, Any] = {
    "architectures": ["BunnyPhiForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_bunny_phi.BunnyPhiConfig"},
    "embd_pdrop": 0.0,
    "hidden_act": "gelu_new",
    "hidden_size": 40,
    "image_aspect_ratio": "pad",
    "initializer_range": 0.02,
    "intermediate_size": 56,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 256,
    "mm_hidden_size": 16,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": f"google/{TOWER_NAME}",
    "model_type": "bunny-phi",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "resid_pdrop": 0.1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_mm_proj": True,
}
INTERNVL_CONFIG: dict[str, Any] = {
    "architectures": ["InternVLChatModel"],
    "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 56,
    "llm_config": {
        "architectures": ["Phi3ForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "model_type": "phi3",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "original_max_position_embeddings": 64,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0],
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "type": "su",
        },
        "rope_theta": 10000.0,
        "sliding_window": 1024,
        "tie_word_embeddings": False,
    },
    "max_dynamic_patch": 6,
    "min_dynamic_patch": 1,
    "model_type": "internvl_chat",
    "pad2square": False,
    "ps_version": "v2",
    "select_layer": -1,
    "template": "phi3-chat",
    "torch_dtype": "float32",
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
    "vision_config": {
        "attention_dropout": 0.0,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 24,
        "image_size": 56,
        "initializer_factor": 1.0,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": 3,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "qk_normalization": False,
        "qkv_bias": True,
    },
}
# Only what is read of it.
CONVERSATION = f"""
add(Form(name='other', system_message='No.', sep='<|im_end|>'))
add(Form(name='phi3-chat', system_message={SYSTEM!r}, roles=('a', 'b'), sep='<|end|>'))
"""


def bunny_tensors(config: Mapping[str, Any], tower_layers: int = 2) -> dict[str, torch.Tensor]:
    """Random tensors under Bunny's names; a tower of 2 layers lacks its last and its head."""
    make = _Maker(0)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv = hidden // heads * config["num_key_value_heads"]
    make("model.embed_tokens.weight", config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("dense", hidden)):
            make.linear(f"{layer}self_attn.{name}", rows, hidden)
        make.linear(f"{layer}mlp.fc1", ffn, hidden)
        make.linear(f"{layer}mlp.fc2", hidden, ffn)
        make.norm(f"{layer}input_layernorm", hidden)
    make.norm("model.final_layernorm", hidden)
    make("lm_head.weight", config["vocab_size"], hidden)
    make.linear("model.mm_projector.0", hidden, TOWER.hidden_size)
    make.linear("model.mm_projector.2", hidden, hidden)
    width, tower = TOWER.hidden_size, "model.vision_tower.vision_tower.vision_model."
    make(f"{tower}embeddings.patch_embedding.weight", width, 3, 14, 14)
    make(f"{tower}embeddings.patch_embedding.bias", width)
    make(f"{tower}embeddings.position_embedding.weight", 4, width)
    for i in range(tower_layers):
        layer = f"{tower}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            make.linear(f"{layer}self_attn.{name}", width, width)
        make.norm(f"{layer}layer_norm1", width)
        make.norm(f"{layer}layer_norm2", width)
        make.linear(f"{layer}mlp.fc1", TOWER.intermediate_size, width)
        make.linear(f"{layer}mlp.fc2", width, TOWER.intermediate_size)
    make.norm(f"{tower}post_layernorm", width)
    if tower_layers == TOWER.layers:
        make(f"{tower}head.probe", 1, 1, width)
        make(f"{tower}head.attention.in_proj_weight", 3 * width, width)
        make(f"{tower}head.attention.in_proj_bias", 3 * width)
        make.linear(f"{tower}head.attention.out_proj", width, width)
        make.norm(f"{tower}head.layernorm", width)
        make.linear(f"{tower}head.mlp.fc1", TOWER.intermediate_size, width)
        make.linear(f"{tower}head.mlp.fc2", width, TOWER.intermediate_size)
    return make.tensors


def internvl_tensors(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Random tensors under InternVL's names."""
    make = _Maker(1)
    text, vision = config["llm_config"], config["vision_config"]
    hidden, ffn = text["hidden_size"], text["intermediate_size"]
    kv = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    make("language_model.model.embed_tokens.weight", text["vocab_size"], hidden)
    for i in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}."
        make(f"{layer}self_attn.qkv_proj.weight", hidden + 2 * kv, hidden)
        make(f"{layer}self_attn.o_proj.weight", hidden, hidden)
        make(f"{layer}mlp.gate_up_proj.weight", 2 * ffn, hidden)
        make(f"{layer}mlp.down_proj.weight", hidden, ffn)
        make.scale(f"{layer}input_layernorm.weight", hidden)
        make.scale(f"{layer}post_attention_layernorm.weight", hidden)
    make.scale("language_model.model.norm.weight", hidden)
    make("language_model.lm_head.weight", text["vocab_size"], hidden)
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    make("vision_model.embeddings.class_embedding", 1, 1, width)
    side = vision["image_size"] // vision["patch_size"]
    make("vision_model.embeddings.position_embedding", 1, side * side + 1, width)
    make("vision_model.embeddings.patch_embedding.weight", width, 3, 14, 14)
    make("vision_model.embeddings.patch_embedding.bias", width)
    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}."
        make.linear(f"{layer}attn.qkv", 3 * width, width, bias=vision["qkv_bias"])
        make.linear(f"{layer}attn.proj", width, width)
        if vision["qk_normalization"]:
            make.scale(f"{layer}attn.q_norm.weight", width)
            make.scale(f"{layer}attn.k_norm.weight", width)
        for norm in ("norm1", "norm2"):
            make.scale(f"{layer}{norm}.weight", width)
            if vision["norm_type"] == "layer_norm":
                make(f"{layer}{norm}.bias", width)
        make.scale(f"{layer}ls1", width)
        make.scale(f"{layer}ls2", width)
        make.linear(f"{layer}mlp.fc1", inner, width)
        make.linear(f"{layer}mlp.fc2", width, inner)
    make.norm("mlp1.0", 4 * width)
    make.linear("mlp1.1", hidden, 4 * width)
    make.linear("mlp1.3", hidden, hidden)
    return make.tensors


class _Maker:
    """Collects random tensors of a size that keeps activations alive through every layer."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int) -> None:
        self.tensors[name] = torch.randn(shape, generator=self.generator) * 0.2

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> None:
        self(f"{name}.weight", rows, columns)
        if bias:
            self(f"{name}.bias", rows)

    def scale(self, name: str, width: int) -> None:
        self.tensors[name] = 1 + 0.3 * torch.randn(width, generator=self.generator)

    def norm(self, name: str, width: int) -> None:
        self.scale(f"{name}.weight", width)
        self(f"{name}.bias", width)


def write_bunny(
    directory: Path,
    *,
    changes: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    tower_layers: int = 2,
    shards: int = 2,
) -> Path:
    """Write a tiny Bunny checkpoint; ``TOWERS`` must know ``TOWER_NAME``."""
    tokenizer = _byte_level()
    end = tokenizer.token_to_id("<|endoftext|>")
    config = {**BUNNY_CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    config |= {"bos_token_id": end, "eos_token_id": end}
    tensors = bunny_tensors(config, tower_layers)
    _write(directory, {**config, **(changes or {})}, tensors, dtype, shards)
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    _write_tokenizer(directory, tokenizer, {"tokenizer_class": "CodeGenTokenizer", **names})
    generation = {"_from_model_config": True, "eos_token_id": end, "transformers_version": "4.36.2"}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return directory


def write_internvl(
    directory: Path,
    *,
    changes: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    shards: int = 2,
    conversation: bool = True,
) -> Path:
    """Write a tiny InternVL checkpoint, with ``vision`` and ``text`` changed in config and weights.

    ``changes`` are of the configuration alone.
    """
    tokenizer = _sentence_pieces()
    config = json.loads(json.dumps(INTERNVL_CONFIG))
    config["vision_config"] |= vision or {}
    config["llm_config"] |= {"vocab_size": tokenizer.get_vocab_size(), **(text or {})}
    tensors = internvl_tensors(config)
    _write(directory, {**config, **(changes or {})}, tensors, torch.float32, shards)
    names = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    _write_tokenizer(directory, tokenizer, {"tokenizer_class": "LlamaTokenizer", **names})
    if conversation:
        (directory / "conversation.py").write_text(CONVERSATION, encoding="utf-8")
    return directory


def _byte_level() -> Tokenizer:
    """A byte-level BPE with tokens for runs of spaces, as Phi-2's is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in (4, 3, 2)])
    return tokenizer


def _sentence_pieces() -> Tokenizer:
    """A BPE over spaced words with byte fallback, as Phi-3's is, with InternVL's tokens."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for letter in "▁" + "".join(chr(code) for code in range(33, 127)):
        vocabulary[letter] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tags = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    images = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>"]
    tokenizer.add_special_tokens([AddedToken(tag, normalized=False) for tag in tags + images])
    return tokenizer


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint under the names they have on disk."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def _write(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    shards: int,
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    parts = [
        names[i * len(names) // shards : (i + 1) * len(names) // shards] for i in range(shards)
    ]
    weight_map = {}
    for i, part in enumerate(parts):
        file = (
            f"model-{i + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        )
        save_file(
            {name: tensors[name].to(dtype).contiguous() for name in part},
            directory / file,
            metadata={"format": "pt"},
        )
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def use_sentencepiece(directory: Path) -> int:
    """Replace an InternVL checkpoint's tokenizer by a SentencePiece model; returns its size.

    That is how a tokenizer is saved that was loaded with ``use_fast=False``.
    """
    import sentencepiece

    (directory / "tokenizer.json").unlink()
    path = directory / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    tags = [row["content"] for row in fields["added_tokens_decoder"].values()][3:]
    size = json.loads((directory / "config.json").read_text())["llm_config"]["vocab_size"]
    with (directory / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*TEXT, "the digit is the digit"] * 20),
            model_writer=stream,
            vocab_size=size - len(tags),
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    added = {str(size - len(tags) + i): tag for i, tag in enumerate(tags)}
    fields["added_tokens_decoder"] = {
        number: {"content": tag, "special": True, "normalized": False}
        for number, tag in added.items()
    }
    path.write_text(json.dumps({**fields, "legacy": False, "add_bos_token": True}))
    (directory / "added_tokens.json").write_text(json.dumps({t: int(n) for n, t in added.items()}))
    return size


def _write_tokenizer(directory: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    added = {
        str(number): {
            "content": token.content,
            "special": token.special,
            "normalized": token.normalized,
        }
        for number, token in tokenizer.get_added_tokens_decoder().items()
    }
    fields = {**config, "added_tokens_decoder": added, "model_max_length": 2048}
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
