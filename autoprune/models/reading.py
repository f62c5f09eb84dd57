"""How a model reads rows of tokens and images: the one place where that is decided.

There are two ways. A model that meets its images at the embeddings only is taken apart: frozen
vision features, the projector, then the decoder on embeddings, with several questions of an image
in one row where a block mask may keep them apart. Any other model (positions in two dimensions,
features added behind later layers, image tokens that see each other, tiles of unlike number) is
run whole, by its own forward pass, one question a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from autoprune.errors import AutoPruneError
from autoprune.models.families import text_config, wrapper_of
from autoprune.models.vision import decode, embed, vision_features

ANSWER_ROOM = 64
"""Tokens of an answer to come that a row leaves below an attention window."""


class Rows(Protocol):
    """What of a batch is read here; ``autoprune.data.encoding.Batch`` says what each is."""

    @property
    def input_ids(self) -> torch.Tensor: ...  # noqa: D102

    @property
    def attention_mask(self) -> torch.Tensor: ...  # noqa: D102

    @property
    def position_ids(self) -> torch.Tensor: ...  # noqa: D102

    @property
    def images(self) -> torch.Tensor: ...  # noqa: D102

    @property
    def pixel_values(self) -> torch.Tensor | None: ...  # noqa: D102

    @property
    def answer_index(self) -> Any: ...  # noqa: D102

    @property
    def whole(self) -> bool: ...  # noqa: D102

    @property
    def inputs(self) -> Mapping[str, torch.Tensor]: ...  # noqa: D102


def attention_window(config: Any) -> int | None:
    """Return how many positions back the shortest-sighted layer looks; None if all see all."""
    text = text_config(config)
    window = getattr(text, "sliding_window", None)
    if not window or getattr(text, "use_sliding_window", True) is False:
        return None
    kinds = getattr(text, "layer_types", None)
    return int(window) if not kinds or "sliding_attention" in kinds else None


def packs(config: Any, longest: int = 0) -> bool:
    """Whether questions of an image may share a row of this model.

    A block mask takes the place of an attention window, so rows of a model that has one must end
    before it bites.

    Args:
        config: of the whole model.
        longest: positions of the longest row, prompt and answer.
    """
    if wrapper_of(config).whole:
        return False
    window = attention_window(config)
    return window is None or longest + ANSWER_ROOM <= window


def answer_states(model: Any, batch: Rows, features: torch.Tensor | None = None) -> torch.Tensor:
    """Return the states behind the final norm that predict a batch's answer tokens, [N, hidden].

    The head turns them into logits. Gradients flow through decoder and projector; the vision
    tower gives none as long as it is frozen.

    Args:
        model: the whole model.
        batch: rows of an encoded set.
        features: what :func:`batch_features` returned; None for text, and for a model that is
            run whole, which takes its images from the batch.
    """
    if batch.whole:
        body = getattr(model, model.base_model_prefix)
        hidden = body(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            **_in_dtype(batch.inputs, model.dtype),
        ).last_hidden_state
    else:
        embeds = embed(model, batch.input_ids, features)
        hidden = decode(model, embeds, batch.attention_mask, batch.position_ids)
    at = batch.answer_index
    return hidden[at.rows, at.cols]


def batch_features(model: Any, batch: Rows, cache: Any = None) -> torch.Tensor | None:
    """Return a batch's frozen vision features, [images, tokens, dim], from a cache or its pixels.

    None where there is nothing to cache: without images, and for a model that is run whole, whose
    tower runs within each forward pass (frozen, so without a graph).

    Args:
        model: whose vision tower is used without a cache.
        batch: rows of an encoded set.
        cache: features of the whole encoded set, by row of its ``pixel_values``.

    Raises:
        AutoPruneError: there is neither cache nor pixels.
    """
    if batch.whole or not len(batch.images):
        return None
    if cache is not None:
        return torch.as_tensor(cache[batch.images.cpu().numpy()]).to(batch.input_ids.device)
    if batch.pixel_values is None:
        raise AutoPruneError("the encoded set has no pixels: give the features of its images")
    return vision_features(model, batch.pixel_values)


def _in_dtype(inputs: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}
