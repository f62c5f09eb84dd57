"""Floating-point operations of forward and backward passes, for the accounting of trials.

A multiply-add counts as two.  Only matrix products and attention are counted: norms,
activations and element-wise work are below a percent at real sizes.  Attention is counted as
it is computed, over the whole context and without credit for the causal half.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autoprune.cost.vision import vision_flops
from autoprune.models.families import text_config
from autoprune.models.shape import BackboneSpec, LayerShape, meta_model, spec_of

# FLOPs of a backward pass relative to the forward pass: gradients of activations cost one
# forward, gradients of weights another.
BACKWARD: dict[str, float] = {"none": 0.0, "projector": 1.0, "lora": 1.0, "full": 2.0}


@dataclass(frozen=True)
class ModelFlops:
    """What a model of one architecture costs outside its decoder layers.

    Attributes:
        spec: the dense model.
        head: FLOPs of the output embedding for one token.
        projector: FLOPs of the projector for one image.
        vision: FLOPs of the vision tower for one image.
        image_tokens: tokens that one image becomes in the decoder.
    """

    spec: BackboneSpec
    head: float
    projector: float
    vision: float
    image_tokens: int

    def decoder(self, shapes: Iterable[LayerShape], tokens: int, context: int) -> float:
        """Return the FLOPs of decoder layers of ``shapes`` for ``tokens`` new tokens.

        Args:
            shapes: of the kept layers.
            tokens: that go through the decoder.
            context: positions that each of them looks at; the sequence length in training.
        """
        return tokens * sum(layer_flops(self.spec, shape, context) for shape in shapes)

    def forward(
        self,
        shapes: Iterable[LayerShape],
        *,
        tokens: int,
        predicted: int,
        images: int = 1,
        vision: bool = True,
    ) -> float:
        """Return the FLOPs of one sample's forward pass.

        Args:
            shapes: of the kept layers.
            tokens: sequence length, image tokens included.
            predicted: positions whose logits are computed.
            images: images in the sample.
            vision: whether the vision tower runs; False where its features are kept.
        """
        outside = self.head * predicted + images * self.projector
        outside += images * self.vision if vision else 0.0
        return outside + self.decoder(shapes, tokens, tokens)

    def step(
        self,
        shapes: Iterable[LayerShape],
        *,
        tokens: int,
        predicted: int,
        scope: str,
        images: int = 1,
        vision: bool = False,
        checkpointing: bool = False,
    ) -> float:
        """Return the FLOPs of one sample's training step: forward and backward.

        Args:
            shapes: of the kept layers.
            tokens: sequence length, image tokens included.
            predicted: positions whose logits are computed.
            scope: what is trained, a key of :data:`BACKWARD`.
            images: images in the sample.
            vision: whether the frozen vision tower runs (it has no backward pass).
            checkpointing: whether the forward pass runs twice to save memory.
        """
        forward = self.forward(
            tuple(shapes), tokens=tokens, predicted=predicted, images=images, vision=False
        )
        passes = 1.0 + BACKWARD[scope] + (1.0 if checkpointing and BACKWARD[scope] else 0.0)
        return forward * passes + (images * self.vision if vision else 0.0)


def layer_flops(spec: BackboneSpec, shape: LayerShape, context: int) -> float:
    """Return the forward FLOPs of one token in a layer that looks at ``context`` positions."""
    linear = shape.heads * 2 * spec.hidden_size * spec.head_dim
    linear += shape.kv_heads * 2 * spec.hidden_size * spec.head_dim
    linear += shape.channels * _weights_of_channel(spec)
    attention = 2 * shape.heads * spec.head_dim * context
    return 2.0 * (linear + attention)


def flops_of(config: Any, image_tokens: float | None = None) -> ModelFlops:
    """Return the FLOPs of a model's parts, read off its configuration on the meta device.

    Args:
        config: of the whole model.
        image_tokens: that an image becomes in the decoder, where that depends on the image.
    """
    model = meta_model(config)
    text = text_config(config)
    vision = vision_flops(model, image_tokens)
    return ModelFlops(
        spec=spec_of(model),
        head=2.0 * text.hidden_size * text.vocab_size,
        projector=vision.projector,
        vision=vision.tower,
        image_tokens=vision.image_tokens,
    )


def _weights_of_channel(spec: BackboneSpec) -> int:
    """Return the weights of an MLP channel without its biases."""
    return spec.channel_params // spec.hidden_size * spec.hidden_size
