"""A layout: how many units each dense layer keeps. Importance says which; then it is a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.plan import LayerPlan, PruningPlan, heads_of_groups
from autoprune.pruning.scores import UnitScores


@dataclass(frozen=True)
class Layout:
    """Counts of units by dense layer; pure data.

    Attributes:
        heads: query heads; 0: the attention sublayer is dropped.
        groups: KV groups that those lie in, equally many in each.
        channels: MLP channels; 0: the MLP sublayer is dropped. A layer without either is dropped.
    """

    heads: tuple[int, ...]
    groups: tuple[int, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.heads) == len(self.groups) == len(self.channels):
            raise AutoPruneError("a layout needs heads, groups and channels for the same layers")
        for index, (heads, groups) in enumerate(zip(self.heads, self.groups, strict=True)):
            if (heads == 0) != (groups == 0) or (groups and heads % groups):
                raise AutoPruneError(
                    f"layer {index} of the layout has {heads} heads in {groups} KV groups: keep "
                    "equally many in each"
                )

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """Shape of each kept layer, in order."""
        rows = zip(self.heads, self.groups, self.channels, strict=True)
        return tuple(LayerShape(*row) for row in rows if row[0] or row[2])

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain JSON values that :meth:`from_dict` reads."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[int]]) -> Layout:
        """Read a layout back.

        Raises:
            AutoPruneError: if counts are missing or do not fit together.
        """
        try:
            parts: dict[str, Any] = {
                field.name: tuple(int(count) for count in values[field.name])
                for field in fields(cls)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise AutoPruneError(
                f"the layout cannot be read ({type(error).__name__}: {error})"
            ) from None
        return cls(**parts)


def layout_of(plan: PruningPlan) -> Layout:
    """Return how many units a plan keeps of each dense layer."""
    gone = LayerShape(0, 0, 0)
    kept = dict(zip((layer.index for layer in plan.layers), plan.shapes, strict=True))
    shapes = [kept.get(index, gone) for index in range(plan.num_layers)]
    return Layout(
        heads=tuple(shape.heads for shape in shapes),
        groups=tuple(shape.kv_heads for shape in shapes),
        channels=tuple(shape.channels for shape in shapes),
    )


def plan_of(spec: BackboneSpec, scores: UnitScores, layout: Layout) -> PruningPlan:
    """Return the plan that keeps the best units of each layer, as many as the layout says.

    Which units a layer keeps follows from its counts and the scores alone, so layers of equal
    counts keep equal units in any two layouts.

    Args:
        spec: shape of the dense model.
        scores: of its units; of query heads only where the layout cuts within KV groups.
        layout: the counts.

    Raises:
        AutoPruneError: for counts that the dense model does not have, or heads without scores.
    """
    if len(layout.heads) != len(spec.layers):
        raise AutoPruneError(
            f"the layout is for {len(layout.heads)} layers and the model has {len(spec.layers)}: "
            "use the model it was made for"
        )
    layers = []
    for index, dense in enumerate(spec.layers):
        heads, groups, channels = (
            part[index] for part in (layout.heads, layout.groups, layout.channels)
        )
        if groups > dense.kv_heads or heads > dense.heads or channels > dense.channels:
            raise AutoPruneError(
                f"layer {index} of the layout keeps {heads} heads and {channels} channels and the "
                f"model has {dense.heads} and {dense.channels}: use the model it was made for"
            )
        if heads or channels:
            kept = _heads(spec, scores, index, groups, heads // groups if groups else 0)
            widths = best(scores.channels[index, : dense.channels], channels)
            layers.append(LayerPlan(index, kept, tuple(widths)))
    return PruningPlan(
        spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, tuple(layers)
    )


def _heads(
    spec: BackboneSpec, scores: UnitScores, index: int, groups: int, each: int
) -> tuple[int, ...]:
    """Return the heads that a layer keeps: ``each`` best of the ``groups`` best KV groups."""
    per_group = spec.q_per_group
    kept = best(scores.groups[index, : spec.layers[index].kv_heads], groups)
    if each in (0, per_group):
        return heads_of_groups(kept, per_group)
    if scores.heads is None:
        raise AutoPruneError("query heads have no scores: measure importance of this model again")
    return tuple(
        group * per_group + place
        for group in kept
        for place in best(scores.heads[index, group * per_group : (group + 1) * per_group], each)
    )


def best(scores: np.ndarray, count: int) -> list[int]:
    """Return the ``count`` best units, ascending; of equal ones the first."""
    if count == len(scores):
        return list(range(count))
    if count == 0:
        return []
    bar = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = scores > bar
    equal = np.flatnonzero(scores == bar)[: count - int(above.sum())]
    above[equal] = True
    return np.flatnonzero(above).tolist()
