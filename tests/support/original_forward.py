"""What Bunny and InternVL compute, from their tensors under the original names, in plain torch.

Written from what their code does, to check converted checkpoints against; in float32, without
transformers and without AutoPrune.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

Tensors = Mapping[str, torch.Tensor]


def linear(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, t[f"{name}.weight"], t.get(f"{name}.bias"))


def layer_norm(t: Tensors, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)


def rms_norm(weight: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, head_dim: int, causal: bool
) -> torch.Tensor:
    """Attention over [B, T, heads * head_dim]; fewer key heads serve groups of query heads."""
    q, k, v = (x.unflatten(-1, (-1, head_dim)).transpose(1, 2) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(head_dim)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def rotate(x: torch.Tensor, head_dim: int, frequency: torch.Tensor, scale: float) -> torch.Tensor:
    """Turn the first ``2 * len(frequency)`` entries of each head by its position."""
    heads = x.unflatten(-1, (-1, head_dim))
    angle = torch.outer(torch.arange(x.shape[1]).float(), frequency)[:, None, :]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    half = len(frequency)
    a, b, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).flatten(2)


def bunny_features(t: Tensors, tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Patches as they enter the tower's last layer, through the projector: [B, patches, H]."""
    prefix = "model.vision_tower.vision_tower.vision_model."
    patch = f"{prefix}embeddings.patch_embedding"
    x = F.conv2d(pixels, t[f"{patch}.weight"], t[f"{patch}.bias"], stride=tower.patch_size)
    x = x.flatten(2).transpose(1, 2) + t[f"{prefix}embeddings.position_embedding.weight"]
    for i in range(tower.layers - 1):
        layer = f"{prefix}encoder.layers.{i}."
        h = layer_norm(t, f"{layer}layer_norm1", x, 1e-6)
        q, k, v = (linear(t, f"{layer}self_attn.{name}_proj", h) for name in "qkv")
        h = attend(q, k, v, tower.hidden_size // tower.heads, causal=False)
        x = x + linear(t, f"{layer}self_attn.out_proj", h)
        h = linear(t, f"{layer}mlp.fc1", layer_norm(t, f"{layer}layer_norm2", x, 1e-6))
        x = x + linear(t, f"{layer}mlp.fc2", F.gelu(h, approximate="tanh"))
    x = F.gelu(linear(t, "model.mm_projector.0", x))
    return linear(t, "model.mm_projector.2", x)


def bunny_logits(
    t: Tensors, config: Mapping[str, Any], ids: Sequence[int], features: torch.Tensor
) -> torch.Tensor:
    """Logits [T, vocabulary]; -200 in ``ids`` is the place of the image [patches, H]."""
    at = list(ids).index(-200)
    words = t["model.embed_tokens.weight"]
    x = torch.cat([words[list(ids[:at])], features, words[list(ids[at + 1 :])]])[None]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    turned = int(config["partial_rotary_factor"] * head_dim)
    frequency = config["rope_theta"] ** -(torch.arange(0, turned, 2).float() / turned)
    eps = config["layer_norm_eps"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = layer_norm(t, f"{layer}input_layernorm", x, eps)
        q, k, v = (linear(t, f"{layer}self_attn.{name}_proj", h) for name in "qkv")
        q, k = (rotate(part, head_dim, frequency, 1.0) for part in (q, k))
        said = linear(t, f"{layer}self_attn.dense", attend(q, k, v, head_dim, causal=True))
        inner = F.gelu(linear(t, f"{layer}mlp.fc1", h), approximate="tanh")
        x = x + said + linear(t, f"{layer}mlp.fc2", inner)
    return linear(t, "lm_head", layer_norm(t, "model.final_layernorm", x, eps))[0]


def internvl_features(
    t: Tensors, config: Mapping[str, Any], pixels: torch.Tensor, transposed: bool = False
) -> torch.Tensor:
    """Four neighbouring patches as one token, through the projector: [tiles, patches / 4, H].

    ``transposed`` is version v1 of the shuffle, which goes through the tokens column by column.
    """
    vision = config["vision_config"]
    eps = vision["layer_norm_eps"]
    patch = "vision_model.embeddings.patch_embedding"
    x = F.conv2d(pixels, t[f"{patch}.weight"], t[f"{patch}.bias"], stride=vision["patch_size"])
    side = x.shape[-1]
    x = x.flatten(2).transpose(1, 2)
    first = t["vision_model.embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + t["vision_model.embeddings.position_embedding"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        if vision["norm_type"] == "rms_norm":
            return rms_norm(t[f"{name}.weight"], x, eps)
        return layer_norm(t, name, x, eps)

    for i in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}."
        q, k, v = linear(t, f"{layer}attn.qkv", norm(f"{layer}norm1", x)).chunk(3, -1)
        if vision["qk_normalization"]:
            q = rms_norm(t[f"{layer}attn.q_norm.weight"], q, eps)
            k = rms_norm(t[f"{layer}attn.k_norm.weight"], k, eps)
        h = attend(q, k, v, vision["hidden_size"] // vision["num_attention_heads"], causal=False)
        x = x + t[f"{layer}ls1"] * linear(t, f"{layer}attn.proj", h)
        h = F.gelu(linear(t, f"{layer}mlp.fc1", norm(f"{layer}norm2", x)))
        x = x + t[f"{layer}ls2"] * linear(t, f"{layer}mlp.fc2", h)
    grid = x[:, 1:].unflatten(1, (side, side))
    corners = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    x = torch.cat(corners, -1)
    x = (x.transpose(1, 2) if transposed else x).flatten(1, 2)
    x = F.gelu(linear(t, "mlp1.1", layer_norm(t, "mlp1.0", x, 1e-5)))
    return linear(t, "mlp1.3", x)


def internvl_logits(
    t: Tensors, config: Mapping[str, Any], ids: torch.Tensor, image_id: int, features: torch.Tensor
) -> torch.Tensor:
    """Logits [T, vocabulary] of ids [T] in which ``image_id`` stands for each feature."""
    text = config["llm_config"]
    place = ids == image_id
    x = t["language_model.model.embed_tokens.weight"][ids.masked_fill(place, 0)]
    x[place] = features.flatten(0, -2)
    x = x[None]
    hidden, eps = text["hidden_size"], text["rms_norm_eps"]
    head_dim = hidden // text["num_attention_heads"]
    kv = head_dim * text["num_key_value_heads"]
    original = text["original_max_position_embeddings"]
    kind = "long_factor" if len(ids) > original else "short_factor"
    stretch = torch.tensor(text["rope_scaling"][kind])
    frequency = 1 / (stretch * text["rope_theta"] ** (torch.arange(0, head_dim, 2) / head_dim))
    ratio = math.log(text["max_position_embeddings"] / original)
    scale = {"su": math.sqrt(1 + ratio / math.log(original)), "yarn": 0.1 * ratio + 1}
    for i in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}."
        h = rms_norm(t[f"{layer}input_layernorm.weight"], x, eps)
        q, k, v = linear(t, f"{layer}self_attn.qkv_proj", h).split([hidden, kv, kv], -1)
        q, k = (
            rotate(part, head_dim, frequency, scale[text["rope_scaling"]["type"]])
            for part in (q, k)
        )
        h = attend(q, k, v, head_dim, causal=True)
        x = x + linear(t, f"{layer}self_attn.o_proj", h)
        h = rms_norm(t[f"{layer}post_attention_layernorm.weight"], x, eps)
        gate, up = linear(t, f"{layer}mlp.gate_up_proj", h).chunk(2, -1)
        x = x + linear(t, f"{layer}mlp.down_proj", F.silu(gate) * up)
    x = rms_norm(t["language_model.model.norm.weight"], x, eps)
    return linear(t, "language_model.lm_head", x)[0]
