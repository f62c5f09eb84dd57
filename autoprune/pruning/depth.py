"""Which layers or sublayers go: removal sets that grow by one, least influential first."""

from __future__ import annotations

import numpy as np

from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.chains import ATTENTION, MLP
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import UnitScores

Removed = frozenset[tuple[int, str]]
"""Sublayers that are gone, by dense layer and kind; a layer without any is gone as a whole."""


def droppable_layers(spec: BackboneSpec, allocation: Allocation) -> list[int]:
    """Return the layers that a depth cut may touch."""
    if allocation.axis == "width":
        return []
    total = len(spec.layers)
    first = max(allocation.protect_first, spec.anchored)
    layers = list(range(first, total - allocation.protect_last))
    if allocation.depth_unit == "sublayer" and len(layers) == total:
        layers = layers[1:]  # something has to stay, and the first layer is needed most
    return layers


def whole_layers(layers: list[int] | tuple[int, ...]) -> Removed:
    """Return whole layers as a removal set."""
    return frozenset((index, kind) for index in layers for kind in (ATTENTION, MLP))


def everything(spec: BackboneSpec, allocation: Allocation) -> list[Removed]:
    """Return what is gone at the most: one set, or several where one layer of them has to stay."""
    layers = droppable_layers(spec, allocation)
    if len(layers) < len(spec.layers):
        return [whole_layers(layers)]
    return [whole_layers([other for other in layers if other != index]) for index in layers]


def removal_sets(spec: BackboneSpec, scores: UnitScores, allocation: Allocation) -> list[Removed]:
    """Return what goes step by step: nothing first, then one unit more each time.

    Layers go by block influence (Men et al. 2024, ShortGPT), as the least influential ones or as
    the run of least summed influence; sublayers by their influence a parameter, since attention
    and MLP differ in size.
    """
    layers = droppable_layers(spec, allocation)
    if allocation.depth_unit == "layer":
        most = min(len(layers), len(spec.layers) - 1)
        chosen = (_least(scores.layers, layers, n, allocation.contiguous) for n in range(most + 1))
        return [whole_layers(indices) for indices in chosen]
    influence = {ATTENTION: scores.attention, MLP: scores.mlp}
    units = [
        (float(influence[kind][index]) / cost, index, kind)
        for index in layers
        for kind, cost in sublayer_params(spec, spec.layers[index]).items()
        if cost
    ]
    order = [(index, kind) for _, index, kind in sorted(units)]
    return [frozenset(order[:n]) for n in range(len(order) + 1)]


def sublayer_params(spec: BackboneSpec, shape: LayerShape) -> dict[str, int]:
    """Return the parameters of each sublayer of a layer; 0 where it is dropped already."""
    fixed = spec.layer_fixed_params
    return {
        ATTENTION: spec.params_of_layer(LayerShape(shape.heads, shape.kv_heads, 0)) - fixed,
        MLP: spec.params_of_layer(LayerShape(0, 0, shape.channels)) - fixed,
    }


def shape_without(shape: LayerShape, index: int, removed: Removed) -> LayerShape | None:
    """Return what removal leaves of a layer's shape; None if that is nothing."""
    heads, kv_heads = (shape.heads, shape.kv_heads) if (index, ATTENTION) not in removed else (0, 0)
    channels = 0 if (index, MLP) in removed else shape.channels
    return LayerShape(heads, kv_heads, channels) if heads or channels else None


def params_without(spec: BackboneSpec, removed: Removed) -> int:
    """Return the parameters of the whole model without what is removed."""
    left = (shape_without(shape, index, removed) for index, shape in enumerate(spec.layers))
    return spec.params_of(shape for shape in left if shape is not None)


def _least(influence: np.ndarray, droppable: list[int], count: int, contiguous: bool) -> list[int]:
    """Return the ``count`` layers of least influence, or the run of least summed influence."""
    if not count:
        return []
    if not contiguous:
        order = sorted(droppable, key=lambda index: (influence[index], index))
        return sorted(order[:count])
    runs = [droppable[start : start + count] for start in range(len(droppable) - count + 1)]
    return min(runs, key=lambda run: float(sum(influence[index] for index in run)))
