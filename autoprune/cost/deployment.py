"""What a model is used for, as far as its memory and its speed depend on it, in numbers.

Made of a configuration once, on the meta device; everything about a plan is then a sum over its
layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from autoprune.cost.images import Picture, Size, picture_of
from autoprune.cost.parameters import Shaped
from autoprune.cost.vision import takes_any_size, vision_room
from autoprune.errors import AutoPruneError
from autoprune.models.families import text_config, wrapper_of
from autoprune.models.shape import BackboneSpec, LayerShape, meta_model

CONTEXT, IMAGES = 1024, 1
"""Text tokens and images of a prompt with its answer, where nothing else is said."""

SEEING = ("gemma3", "paligemma")
"""Architectures whose image tokens see each other, those behind them too."""

Kept = Shaped | Iterable[LayerShape] | None
"""A plan, a layout, the shapes of layers in dense order (without heads and channels: gone), or
None for the dense model."""


@dataclass(frozen=True)
class Deployment:
    """A prompt of a stated length on a model of one architecture.

    Attributes:
        context: text tokens, prompt and answer.
        images: in the prompt.
        image_tokens: that one image becomes in the decoder.
        image: what that was counted for, in words; empty where it was given, or where every
            image becomes as much.
        windows: positions that each dense layer's cache holds at most; None: all.
        head_params: weights of the output embedding.
        vision_room: entries that the vision tower holds at its peak, for the images of a prompt.
        masked: whether attention needs a mask of positions by positions: where image tokens see
            each other, or a window is shorter than the prompt.
    """

    context: int
    images: int
    image_tokens: int
    windows: tuple[int | None, ...]
    head_params: int
    vision_room: int = 0
    masked: bool = False
    image: str = ""

    @property
    def positions(self) -> int:
        """Tokens that the decoder sees: text, and those of the images."""
        return self.context + self.images * self.image_tokens

    @property
    def said(self) -> str:
        """The prompt in words."""
        if not self.images * self.image_tokens:
            return f"{self.context:,} tokens of text"
        images = "1 image" if self.images == 1 else f"{self.images} images"
        counted = f" ({self.image})" if self.image else ""
        return (
            f"{self.context:,} tokens of text and {images} of {self.image_tokens:,} tokens{counted}"
        )

    def cached(self, place: int) -> int:
        """Return the positions that the cache of the dense layer ``place`` holds."""
        window = self.windows[place]
        return self.positions if window is None else min(window, self.positions)


def deployment_of(
    config: Any,
    context: int | None = None,
    images: int | None = None,
    image_tokens: int | None = None,
    size: Size | None = None,
) -> Deployment:
    """Return what a model of ``config`` is used for.

    Args:
        config: of the whole model.
        context: text tokens; by default :data:`CONTEXT`, or what the model has positions for.
        images: in a prompt; by default one, none for a plain language model.
        image_tokens: of one image; by default those of a square image of ``vision.SIDE`` pixels,
            cut into tiles as the model's processor does (see ``images.picture_of``); of a
            smaller one where the positions do not hold it and the tower takes any size.
        size: height and width of an image in pixels, where a usual one is known.

    Raises:
        AutoPruneError: for images that the model does not read, or more tokens than it has
            positions for.
    """
    text = text_config(config)
    vision = wrapper_of(config).projector is not None
    if images and not vision:
        raise AutoPruneError(
            f"--images-per-prompt {images}: this model reads no images; leave it out"
        )
    count = (IMAGES if vision else 0) if images is None else images
    model = meta_model(config)
    most = getattr(text, "max_position_embeddings", None) or 2**31
    picture = Picture(0, 0)
    if vision and image_tokens is not None:
        picture = Picture(0, image_tokens)
    elif vision:
        picture = picture_of(model, images=count, size=size)
        if count and takes_any_size(config):
            picture = _as_large_as_fits(picture, most, count, context)
    an_image = picture.tokens
    room = most - count * an_image
    if room < 1 or (context is not None and context > room):
        asked = f"{count} images of {an_image:,} tokens"
        asked = asked if context is None else f"--context {context} with {asked}"
        raise AutoPruneError(
            f"{asked}: that is beyond the {most:,} positions that this model has: ask for "
            + (f"at most {room:,} tokens of text" if room > 0 else "fewer images")
        )
    said = min(CONTEXT, room) if context is None else context
    windows = _windows(text)
    positions = said + count * an_image
    return Deployment(
        context=said,
        images=count,
        image_tokens=an_image,
        windows=windows,
        masked=(count > 0 and config.model_type in SEEING)
        or any(window is not None and window < positions for window in windows),
        head_params=text.hidden_size * text.vocab_size,
        vision_room=count * vision_room(model, picture.features, picture.tiles or None),
        image=picture.assumed,
    )


def _as_large_as_fits(picture: Picture, most: int, count: int, context: int | None) -> Picture:
    """Return the usual image of a tower that takes any size, or the largest that fits.

    Half of the positions are left to text whose length was not stated.
    """
    room = most // 2 if context is None else most - context
    if count * picture.tokens <= room:
        return picture
    return Picture(1, max(1, room // count), assumed="as large as its positions hold")


def placed(spec: BackboneSpec, pruned: Kept) -> Iterator[tuple[int, LayerShape]]:
    """Yield the place in the dense model and the shape of every layer that is kept."""
    if pruned is None:
        yield from enumerate(spec.layers)
        return
    if isinstance(pruned, Iterable):
        yield from ((i, s) for i, s in enumerate(pruned) if s.heads or s.channels)
        return
    layers = getattr(pruned, "layers", None)
    if layers is not None and layers and hasattr(layers[0], "index"):
        places = [layer.index for layer in layers]
    elif hasattr(pruned, "heads"):  # a layout: counts by dense layer
        pairs = zip(pruned.heads, getattr(pruned, "channels"), strict=True)  # noqa: B009
        places = [i for i, pair in enumerate(pairs) if any(pair)]
    else:
        places = list(range(len(pruned.shapes)))
    yield from zip(places, pruned.shapes, strict=True)


def _windows(text: Any) -> tuple[int | None, ...]:
    """Return the attention window of each layer."""
    count = int(text.num_hidden_layers)
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    if not window:
        return (None,) * count
    if types:
        return tuple(int(window) if kind == "sliding_attention" else None for kind in types)
    used = getattr(text, "use_sliding_window", True)
    return (int(window) if used else None,) * count
