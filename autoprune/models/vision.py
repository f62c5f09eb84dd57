"""The two halves of a vision-language model: frozen image features, and what reads them.

The vision tower is never trained, so its output is computed once and kept.  Everything
downstream of the projector's input can then be run on features instead of pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.errors import AutoPruneError
from autoprune.models.families import wrapper_of


class _Captured(Exception):  # noqa: N818 - carries a value out of a forward pass
    def __init__(self, features: torch.Tensor):
        super().__init__()
        self.features = features


def projector_of(model: Any) -> nn.Module | None:
    """Return the projector of a vision-language model; None for a plain language model."""
    path = wrapper_of(model.config).projector
    return None if path is None else model.get_submodule(path)


def between(model: Any) -> list[nn.Module]:
    """Return all modules between vision tower and decoder, the projector first."""
    projector = projector_of(model)
    if projector is None:
        return []
    return [projector, *(model.get_submodule(path) for path in wrapper_of(model.config).beside)]


def let_dtypes_differ(model: Any) -> list[Any]:
    """Let what stands between tower and decoder have another dtype than either.

    Trained weights are held in float32 beside a frozen tower in bfloat16; a model's own forward
    pass does not expect that where autocast is off.

    Returns:
        Handles; ``remove()`` of each ends it.
    """
    embedding = model.get_input_embeddings()

    def as_embedded(_: nn.Module, __: Any, output: Any) -> Any:
        is_tensor = isinstance(output, torch.Tensor) and output.is_floating_point()
        return output.to(embedding.weight.dtype) if is_tensor else output

    handles: list[Any] = []
    for outer in between(model):
        for module in outer if isinstance(outer, nn.ModuleList) else [outer]:
            handles.append(module.register_forward_pre_hook(_in_own_dtype, with_kwargs=True))
            handles.append(module.register_forward_hook(as_embedded))
    return handles


def _in_own_dtype(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = next(module.parameters()).dtype

    def cast(value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if floats else value

    return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}


@torch.no_grad()
def vision_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the frozen input of the projector, [images, tokens, dim].

    Args:
        model: a vision-language model.
        pixel_values: [images, 3, height, width], as its processor makes them.

    Raises:
        AutoPruneError: if the model has no projector.
    """
    projector = projector_of(model)
    if projector is None:
        raise AutoPruneError("a plain language model has no vision tower: pass text only")

    def capture(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        raise _Captured(args[0])

    tower_dtype = next(projector.parameters()).dtype
    hook = projector.register_forward_pre_hook(capture)
    try:
        model.get_image_features(pixel_values=pixel_values.to(tower_dtype))
    except _Captured as captured:
        return captured.features
    finally:
        hook.remove()
    raise RuntimeError("the projector was not reached")


def embed(
    model: Any, input_ids: torch.Tensor, features: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what the decoder reads, [B, T, H]: token embeddings with projected features in.

    The projector is the model's own and gradients flow through it.

    Args:
        model: the whole model.
        input_ids: [B, T]; image tokens stand where features go, in order.
        features: [images, tokens, dim] from :func:`vision_features`; None for text only.
    """
    embeds = model.get_input_embeddings()(input_ids)
    if features is None:
        return embeds
    projector = projector_of(model)
    if projector is None:
        raise AutoPruneError("a plain language model takes no image features: pass text only")
    weight = next(projector.parameters())
    projected = projector(features.to(device=weight.device, dtype=weight.dtype))
    mask = input_ids == model.config.image_token_id
    if int(mask.sum()) * embeds.shape[-1] != projected.numel():
        raise AutoPruneError(
            f"{int(mask.sum())} image tokens for {projected.shape[0]} images of "
            f"{projected.shape[1]} features: the text and its images do not belong together"
        )
    return embeds.masked_scatter(mask.unsqueeze(-1), projected.to(embeds.dtype))


def decode(
    model: Any,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Any = None,
) -> torch.Tensor:
    """Run the decoder and return its last hidden states after the final norm, [B, T, H].

    Args:
        model: the whole model.
        inputs_embeds: [B, T, H] from :func:`embed`.
        attention_mask: [B, T], or a bool mask [B, 1, T, T] that is true where a position may
            look; None for plain causal attention.
        position_ids: [B, T]; None counts from 0.
        past_key_values: a transformers cache of K earlier positions, which grows by T; the mask
            is [B, 1, T, K + T] then.
    """
    decoder = model.get_decoder()
    if attention_mask is not None and attention_mask.dim() == 4:
        attention_mask = block_mask(
            attention_mask, inputs_embeds.dtype, decoder.config._attn_implementation
        )
    return decoder(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=past_key_values,
        use_cache=past_key_values is not None,
    ).last_hidden_state


def block_mask(mask: torch.Tensor, dtype: torch.dtype, implementation: str) -> torch.Tensor:
    """Return a bool mask [B, 1, T, T] as the attention implementation reads it.

    sdpa takes booleans; eager attention adds its mask to the scores.
    """
    if implementation == "eager":
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return mask


def head(model: Any) -> nn.Module:
    """Return the output embedding: hidden states [..., H] to logits [..., vocabulary]."""
    return model.get_output_embeddings()
