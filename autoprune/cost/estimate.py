"""Memory and latency of a pruned model on a device, from its configuration and its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.cost.deployment import Deployment, Kept, deployment_of
from autoprune.cost.devices import Device
from autoprune.cost.latency import Latency, modelled_latency
from autoprune.cost.memory import Memory, memory_of
from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec, LayerShape


@dataclass(frozen=True)
class Estimate:
    """What a model costs on a device.

    Attributes:
        memory: while it answers.
        latency: a decoded token.
        deployment: the prompt that both are said for.
        device: that latency is said for.
    """

    memory: Memory
    latency: Latency
    deployment: Deployment
    device: Device

    @property
    def fits(self) -> bool:
        """Whether the device's usable memory holds it."""
        return self.memory.total <= self.device.memory


def estimate(
    spec: BackboneSpec,
    config: Any,
    shapes: Kept,
    precision: str,
    device: Device,
    context: int | None = None,
    images: int | None = None,
    image_tokens: int | None = None,
) -> Estimate:
    """Return what a pruned model costs on a device.

    Args:
        spec: of the dense model.
        config: of the dense model.
        shapes: a plan, or a shape for each dense layer (without heads and channels: dropped), see
            :func:`shapes_of`; None is the dense model.
        precision: of its weights, a key of ``models.precision.PRECISIONS``.
        device: see ``devices.find_device``.
        context: text tokens of a prompt with its answer; None: ``deployment.CONTEXT``.
        images: in a prompt; None: one, or none for a plain language model.
        image_tokens: of an image; None: see ``deployment.deployment_of``.

    Raises:
        AutoPruneError: for an unknown precision, or a prompt that the model has no positions for.
    """
    prompt = deployment_of(config, context, images, image_tokens)
    kept = tuple(shapes) if isinstance(shapes, Sequence) else shapes
    return Estimate(
        memory=memory_of(spec, kept, precision, prompt),
        latency=modelled_latency(spec, kept, precision, prompt, device),
        deployment=prompt,
        device=device,
    )


def shapes_of(
    spec: BackboneSpec, heads: Sequence[int], channels: Sequence[int]
) -> tuple[LayerShape, ...]:
    """Return the shapes of dense layers of which so many heads and channels are kept.

    Key/value heads, which such counts leave open, leave with all their query heads; where the
    number kept is no multiple of a group, every one of the layer stays with a part of its group.

    Args:
        spec: of the dense model.
        heads: query heads kept of each dense layer.
        channels: MLP channels kept of each dense layer.

    Raises:
        AutoPruneError: for counts of another number of layers.
    """
    if not len(heads) == len(channels) == len(spec.layers):
        raise AutoPruneError(
            f"counts of {len(heads)} layers do not belong to a model of {len(spec.layers)}"
        )
    found = []
    for dense, kept, wide in zip(spec.layers, heads, channels, strict=True):
        ratio = dense.heads // dense.kv_heads if dense.kv_heads else 1
        groups = kept // ratio if kept % ratio == 0 else min(kept, dense.kv_heads)
        found.append(LayerShape(kept, groups, wide))
    return tuple(found)
