"""How large a model is, in both units in which a size is always said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from autoprune.amounts import COUNTS, text_in
from autoprune.models.shape import BackboneSpec, LayerShape


class Shaped(Protocol):
    """Anything that knows the shapes of its layers, such as a pruning plan or a spec."""

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """Shape of each kept layer."""
        ...


@dataclass(frozen=True)
class Size:
    """The size of a model relative to the dense one it came from.

    Attributes:
        params: parameters of the whole model, tied tensors once.
        fraction: share of the dense whole model that is kept, 0 to 1.
        backbone_params: parameters of the decoder layers.
        backbone_removed: share of the dense decoder layers' parameters that is gone, 0 to 1.
    """

    params: int
    fraction: float
    backbone_params: int
    backbone_removed: float


def size_of(spec: BackboneSpec, pruned: Shaped | Iterable[LayerShape] | None = None) -> Size:
    """Return the size of a model of ``spec`` pruned to a plan or to shapes (None: dense)."""
    shapes: Iterable[LayerShape]
    if pruned is None:
        shapes = spec.layers
    elif isinstance(pruned, Iterable):
        shapes = pruned
    else:
        shapes = pruned.shapes
    backbone = sum(spec.params_of_layer(shape) for shape in shapes)
    dense = spec.backbone_params
    return Size(
        params=spec.outside_params + backbone,
        fraction=(spec.outside_params + backbone) / spec.total_params,
        backbone_params=backbone,
        backbone_removed=1 - backbone / dense if dense else 0.0,
    )


def format_params(count: int) -> str:
    """Write a count for people: ``2.03M``, ``7.06B``, ``512``."""
    return text_in(count, COUNTS)
