"""Which units are kept, as masks; and how a ranking of units meets a size exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.plan import LayerPlan, PruningPlan, heads_of_groups

GROUP, CHANNEL = "group", "channel"

Unit = tuple[str, int, int]
"""Kind, layer and place of a KV group or an MLP channel."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The units that stay.

    Attributes:
        groups: ``bool [L, G]`` KV groups.
        channels: ``bool [L, C]`` MLP channels.
    """

    groups: np.ndarray
    channels: np.ndarray

    @classmethod
    def everything(cls, spec: BackboneSpec) -> Kept:
        """Return the dense model's units; its layers are of one shape."""
        layers, shape = len(spec.layers), spec.layers[0]
        return cls(
            np.ones((layers, shape.kv_heads), dtype=bool),
            np.ones((layers, shape.channels), dtype=bool),
        )

    def copy(self) -> Kept:
        """Return masks of their own."""
        return Kept(self.groups.copy(), self.channels.copy())

    def mask(self, kind: str) -> np.ndarray:
        """Return the mask of a kind of unit; changes to it count."""
        return self.groups if kind == GROUP else self.channels

    def shapes(self, spec: BackboneSpec) -> tuple[LayerShape, ...]:
        """Return the shape of each layer that is left."""
        pairs = zip(self.groups.sum(1).tolist(), self.channels.sum(1).tolist(), strict=True)
        return tuple(LayerShape(g * spec.q_per_group, g, c) for g, c in pairs if g or c)

    def params(self, spec: BackboneSpec) -> int:
        """Return the parameters of the whole model."""
        return spec.params_of(self.shapes(spec))

    def plan(self, spec: BackboneSpec) -> PruningPlan:
        """Return the plan that keeps these units."""
        layers = []
        for index, (groups, channels) in enumerate(zip(self.groups, self.channels, strict=True)):
            heads = heads_of_groups(np.flatnonzero(groups).tolist(), spec.q_per_group)
            if heads or channels.any():
                layers.append(LayerPlan(index, heads, tuple(np.flatnonzero(channels).tolist())))
        return PruningPlan(
            spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, tuple(layers)
        )


def kept_of(plan: PruningPlan, spec: BackboneSpec) -> Kept:
    """Return the masks of a plan."""
    full = Kept.everything(spec)
    kept = Kept(np.zeros_like(full.groups), np.zeros_like(full.channels))
    for layer in plan.layers:
        kept.groups[layer.index, list(plan.kv_heads(layer))] = True
        kept.channels[layer.index, list(layer.channels)] = True
    return kept


def target_of(spec: BackboneSpec, removed: float) -> int:
    """Return the parameters of the whole model with a share of the backbone removed."""
    return spec.total_params - round(removed * spec.backbone_params)


def cost(spec: BackboneSpec, unit: Unit) -> int:
    """Return the parameters of a unit."""
    return spec.attention_group_params if unit[0] == GROUP else spec.channel_params


def ranked(groups: np.ndarray, channels: np.ndarray) -> list[Unit]:
    """Return all units, those of the highest score first; equal ones in the order of layers.

    Args:
        groups: ``[L, G]`` scores.
        channels: ``[L, C]`` scores on the same scale.
    """
    units = [
        (float(scores[layer, place]), (kind, layer, place))
        for kind, scores in ((GROUP, groups), (CHANNEL, channels))
        for layer in range(scores.shape[0])
        for place in range(scores.shape[1])
    ]
    return [unit for _, unit in sorted(units, key=lambda pair: -pair[0])]


def cut(spec: BackboneSpec, kept: Kept, order: Sequence[Unit], target: int) -> Kept:
    """Return ``kept`` without the last units of ``order``, as few as bring it to ``target``.

    The best unit of each sublayer stays. What is left of the size is then filled, see
    :func:`fill`.
    """
    left = kept.copy()
    size = left.params(spec)
    for unit in reversed(order):
        if size <= target:
            break
        kind, layer, place = unit
        mask = left.mask(kind)[layer]
        if mask[place] and mask.sum() > 1:
            mask[place] = False
            size -= cost(spec, unit)
    return fill(spec, left, order, target)


def fill(spec: BackboneSpec, kept: Kept, order: Iterable[Unit], target: int) -> Kept:
    """Return ``kept`` with units put back in their order, each that fits.

    Sublayers that are gone stay so.
    """
    left = kept.copy()
    size = left.params(spec)
    for unit in order:
        kind, layer, place = unit
        mask = left.mask(kind)[layer]
        price = cost(spec, unit)
        if not mask[place] and mask.any() and size + price <= target:
            mask[place] = True
            size += price
    return left
