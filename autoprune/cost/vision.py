"""Floating-point operations from pixels to the decoder's image tokens, for any vision tower.

A tower is counted by its weights: each linear layer and convolution acts once on every position.
Attention is counted over all positions of a tile, also where a tower looks at windows in some
layers, which is an upper bound then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from autoprune.models.families import wrapper_of
from autoprune.models.vision import between

SIDE = 448
"""Pixels of an image's side, where a tower takes images of any size and nothing else is known."""


@dataclass(frozen=True)
class VisionFlops:
    """What an image costs, and what it becomes.

    Attributes:
        tower: FLOPs of the vision tower for one image.
        projector: FLOPs of the projector for one image.
        image_tokens: tokens of it in the decoder.
    """

    tower: float = 0.0
    projector: float = 0.0
    image_tokens: int = 0


def vision_flops(model: Any, image_tokens: float | None = None) -> VisionFlops:
    """Count an image's way to the decoder.

    Args:
        model: of the whole model, on any device (the meta device will do).
        image_tokens: tokens that an image becomes in the decoder, where that is known; by
            default those of one tile, or of a square image of :data:`SIDE` pixels.
    """
    config = model.config
    wrapper = wrapper_of(config)
    if wrapper.projector is None:
        return VisionFlops()
    bridges = between(model)
    vision = config.vision_config
    patches, seen, tile_tokens = _tile(model, image_tokens)
    tokens = tile_tokens if image_tokens is None else image_tokens
    tiles = tokens / tile_tokens
    weights = convolutions = 0
    for module in _tower_modules(model, bridges):
        if isinstance(module, nn.Linear):
            weights += module.weight.numel()
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            convolutions += module.weight.numel()
    layers = getattr(vision, "num_hidden_layers", None) or vision.depth
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    tile = 2.0 * (weights * seen + convolutions * patches) + 4.0 * seen**2 * width * layers
    return VisionFlops(
        tower=tiles * tile,
        projector=2.0 * tokens * sum(_matrices(module) for module in bridges),
        image_tokens=round(tokens),
    )


def tile_tokens(model: Any) -> int:
    """Return the tokens in the decoder that a tile becomes, where a tower takes tiles of one size.

    Where it takes images of any size, those of a square image of :data:`SIDE` pixels.
    """
    return round(_tile(model, None)[2])


def _tile(model: Any, image_tokens: float | None) -> tuple[int, int, float]:
    """Return a tile's patches, its positions in the tower, and its tokens in the decoder."""
    config = model.config
    patches = _patches(config.vision_config, image_tokens)
    seen = patches + _class_tokens(model)
    strategy = getattr(config, "vision_feature_select_strategy", None)
    # The strategy "default" cuts off the first token, whatever it is.
    handed = (seen - (strategy == "default")) if strategy is not None else patches
    return patches, seen, handed / _positions_a_token(config, handed)


def takes_any_size(config: Any) -> bool:
    """Return whether the tower of a model takes images of any size, not tiles of one."""
    return not getattr(config.vision_config, "image_size", None)


def _patches(vision: Any, image_tokens: float | None) -> int:
    """Return the patches of a tile; of the whole image where the tower takes any size."""
    if not getattr(vision, "image_size", None) and image_tokens is not None:
        return round(image_tokens * vision.spatial_merge_size**2)
    size, patch = (
        value if isinstance(value, (list, tuple)) else (value, value)
        for value in (getattr(vision, "image_size", None) or SIDE, vision.patch_size)
    )
    return int((size[0] // patch[0]) * (size[1] // patch[1]))


def _positions_a_token(config: Any, handed: int) -> float:
    """Return how many of the tower's positions become one token of the decoder."""
    merge = getattr(config.vision_config, "spatial_merge_size", None)
    merge = merge or getattr(config, "scale_factor", None)
    if merge:
        return float(merge) ** 2
    if ratio := getattr(config, "downsample_ratio", None):
        return 1 / float(ratio) ** 2
    pooled = getattr(config, "mm_tokens_per_image", None)
    return handed / pooled if pooled else 1.0


def _class_tokens(model: nn.Module) -> int:
    return int(
        any(name.endswith(("class_embedding", "cls_token")) for name, _ in model.named_parameters())
    )


def _tower_modules(model: Any, bridges: list[nn.Module]) -> list[nn.Module]:
    """Return what is neither decoder, head nor projector, nor a head that the tower has."""
    others = {id(model.get_output_embeddings()), id(model.get_decoder())}
    others |= {id(module) for part in [model.get_decoder(), *bridges] for module in part.modules()}
    unused = {
        id(inner)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "head"
        for inner in module.modules()
    }
    return [module for module in model.modules() if id(module) not in others | unused]


def _matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)


def vision_room(model: Any, image_tokens: float | None = None, tiles: float | None = None) -> int:
    """Return how many entries an image's way to the decoder holds at its peak.

    That is in an MLP of the tower, where its input, the residual stream and two copies of what is
    between its linears are alive (three where CLIP's activation multiplies it); a model that names
    the layer which features are taken from keeps the states of all of them. All tiles of an
    image go through together.

    Args:
        model: of the whole model, on any device.
        image_tokens: as for :func:`vision_flops`.
        tiles: that an image is cut into; by default as many as its tokens are made of.
    """
    wrapper = wrapper_of(model.config)
    if wrapper.projector is None:
        return 0
    vision = model.config.vision_config
    _, seen, tile = _tile(model, image_tokens)
    if tiles is None:
        sized = not takes_any_size(model.config)
        tiles = max(1.0, image_tokens / tile) if image_tokens and sized else 1.0
    width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
    inner = getattr(vision, "intermediate_size", None)
    inner = int(inner or width * getattr(vision, "mlp_ratio", 4))
    layers = int(getattr(vision, "num_hidden_layers", None) or vision.depth)
    states = layers + 1 if getattr(model.config, "vision_feature_layer", None) is not None else 1
    copies = 3 if getattr(vision, "hidden_act", "") == "quick_gelu" else 2
    return int(tiles * seen * ((states + 1) * width + copies * inner))
