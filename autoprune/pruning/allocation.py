"""From a target size to a plan: how many units each layer loses, exact in size.

Importance decides *which* units go; a handful of knobs decides *how many* go where. Every unit
gets a removal key, and units are removed by rising key until the target is met; then units are
put back as long as one fits. No loop runs over units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.chains import ATTENTION, MLP, by_query, chains_of, cheapest, cut_to_size
from autoprune.pruning.depth import (
    Removed,
    everything,
    params_without,
    removal_sets,
    shape_without,
)
from autoprune.pruning.plan import LayerPlan, PruningPlan, dense_plan, heads_of_groups
from autoprune.pruning.scores import UnitScores

AXES = ("width", "depth", "hybrid")
DEPTH_UNITS = ("layer", "sublayer")
HEAD_UNITS = ("group", "query")


@dataclass(frozen=True)
class Allocation:
    """How a cut is spread over a backbone. Every value is a knob of the search.

    Attributes:
        axis: ``width`` removes heads and MLP channels, ``depth`` layers, ``hybrid`` both.
        depth_share: share of a hybrid cut taken by depth, 0 to 1, as near as whole layers
            come to it from either side; more only if widths cannot give the rest.
        depth_unit: depth removes a ``layer`` at a time, or an attention or MLP ``sublayer``.
        contiguous: drop one run of layers instead of the least influential ones; says nothing
            of sublayers.
        head_unit: width removes heads by whole KV ``group``, or one ``query`` head in every
            group of a layer at a time; the same where a group has one head.
        temperature: 0: every layer loses the same share; 1: one ranking of all units, per
            parameter, decides. Between them the two ranks of a unit are blended.
        attention_share: 0: the width cut leaves attention alone; 0.5: both lose at one rate; 1:
            it leaves MLPs alone. The rates of attention and MLP stand as share to 1 − share.
        profile_slope: above 0 late layers lose more, below 0 early ones do. The rate of a layer
            at depth x in [-1, 1] is multiplied by exp(slope·P1(x) + curve·P2(x)), P1 and P2
            being the Legendre polynomials.
        profile_curve: above 0 the ends lose more, below 0 the middle does.
        protect_first: that many first layers are left whole.
        protect_last: that many last layers are left whole.
        attention_window: attention is cut in layers whose ``index / layers`` lies in
            [start, stop).
        mlp_window: the same for MLPs.
        layer_ratios: keep ratio of each layer (or of each of fewer, equal runs of layers), in
            (0, 1]; a common power of them is taken that meets the target. 1 leaves a layer whole.
        stock: the same counts in every kept layer, in numbers that stock transformers can load.
            Profiles, windows and ratios then do not apply, and the target is met within one
            uniform step.
    """

    axis: str = "hybrid"
    depth_share: float = 0.5
    depth_unit: str = "layer"
    contiguous: bool = False
    head_unit: str = "group"
    temperature: float = 0.5
    attention_share: float = 0.5
    profile_slope: float = 0.0
    profile_curve: float = 0.0
    protect_first: int = 0
    protect_last: int = 0
    attention_window: tuple[float, float] = (0.0, 1.0)
    mlp_window: tuple[float, float] = (0.0, 1.0)
    layer_ratios: tuple[float, ...] | None = None
    stock: bool = False

    def __post_init__(self) -> None:
        for name, known in (("axis", AXES), ("depth_unit", DEPTH_UNITS), ("head_unit", HEAD_UNITS)):
            value = getattr(self, name)
            if value not in known:
                what = name.replace("_", " ")
                raise AutoPruneError(f"unknown {what} {value!r}{did_you_mean(value, known)}")
        if self.stock and self.depth_unit == "sublayer":
            raise AutoPruneError(
                "stock models have both sublayers in every layer: use depth unit 'layer'"
            )
        for name in ("depth_share", "temperature", "attention_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise AutoPruneError(f"{name} is {value:g}: it must lie in [0, 1]")
        for name in ("profile_slope", "profile_curve"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise AutoPruneError(f"{name} is {value}: it must be a number")
        for name in ("protect_first", "protect_last"):
            value = getattr(self, name)
            if value < 0:
                raise AutoPruneError(f"{name} is {value}: it must be 0 or more")
        for name in ("attention_window", "mlp_window"):
            start, stop = getattr(self, name)
            if not 0 <= start <= stop <= 1:
                raise AutoPruneError(f"{name} is {(start, stop)}: it must rise within [0, 1]")
        for ratio in self.layer_ratios or ():
            if not 0 < ratio <= 1:
                raise AutoPruneError(f"layer ratio {ratio:g} is outside (0, 1]")
        if self.layer_ratios is not None and not self.layer_ratios:
            raise AutoPruneError("layer_ratios is empty: give one ratio a layer, or None")

    def to_dict(self) -> dict[str, Any]:
        """Return the knobs as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Allocation:
        """Read knobs back.

        Raises:
            AutoPruneError: for an unknown knob or a value outside its range.
        """
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise AutoPruneError(f"unknown allocation knob {name!r}{did_you_mean(name, known)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)


# Windows of the study for LLaVA (arXiv 2604.24380): attention 3-20 and MLP 3-19 of 32 layers.
_STUDY_ATTENTION, _STUDY_MLP = (3 / 32, 21 / 32), (3 / 32, 20 / 32)

BASELINES: dict[str, Allocation] = {
    "depth": Allocation(axis="depth"),
    "depth_trimmed": Allocation(axis="hybrid", depth_share=1, temperature=0),
    "width": Allocation(axis="width", temperature=0),
    "width_window": Allocation(
        axis="width",
        temperature=0,
        attention_window=_STUDY_ATTENTION,
        mlp_window=_STUDY_MLP,
    ),
    "depth_then_width": Allocation(axis="hybrid", depth_share=0.5, temperature=0),
    "global": Allocation(axis="width", temperature=1),
}
"""What is recommended or usual, by name.

``depth`` is block influence as published, in whole layers, so smaller than the target by up to
a layer; ``depth_trimmed`` drops one layer less where that is above the target and trims the rest
uniformly to the target, for comparisons at one size. ``width`` and ``width_window`` cut uniformly
in all layers and in the study's window; ``depth_then_width`` halves the cut; ``global`` ranks all
units of all layers together.
"""


def baselines(spec: BackboneSpec, target_params: int, multiple: int = 1) -> dict[str, Allocation]:
    """Return the baselines that reach a target size."""
    return {
        name: allocation
        for name, allocation in BASELINES.items()
        if reachable(spec, allocation, multiple)[0] <= target_params
    }


def reachable(spec: BackboneSpec, allocation: Allocation, multiple: int = 1) -> tuple[int, int]:
    """Return the smallest and largest size of the whole model that an allocation can give.

    Every target between them is met from below, see :func:`allocate`. Every sublayer of a kept
    layer keeps at least one KV group and ``multiple`` channels.
    """
    smallest = max(
        _smallest(spec, allocation, gone, multiple) for gone in everything(spec, allocation)
    )
    return smallest, spec.total_params


def largest_unit(spec: BackboneSpec, allocation: Allocation, multiple: int = 1) -> int:
    """Return the parameters of the largest unit, which sizes are exact within.

    For ``stock`` that is a step of every layer at once.
    """
    chains = chains_of(spec, replace(allocation, protect_first=0, protect_last=0), (), multiple)
    return max((int(chain.costs.max()) for chain in chains), default=max(spec.layer_params))


def allocate(
    spec: BackboneSpec,
    scores: UnitScores,
    allocation: Allocation,
    target_params: int,
    multiple: int = 1,
) -> PruningPlan:
    """Return the plan that an allocation makes at a target size of the whole model.

    The plan's size is at most the target, and exact within one unit: whatever unit the
    allocation may cut, putting one back would exceed the target. A unit is a KV group (or one
    query head in each of a layer's groups), or ``multiple`` channels (or what a width above the
    last multiple has left over); for axis ``depth`` it is a layer or sublayer, and for ``stock``
    one of them in every kept layer. A target at or
    above the dense size keeps everything.

    Args:
        spec: shape of the dense model.
        scores: of its units; importance orders units within a layer, and layers.
        allocation: the knobs.
        target_params: parameters of the whole model that may be kept.
        multiple: widths of cut MLPs are multiples of it, or the dense width.

    Raises:
        AutoPruneError: for a target below what can be reached (the message says what can), or
            scores of another model.
    """
    _check(spec, scores, allocation, multiple)
    if target_params >= spec.total_params:
        return dense_plan(spec)
    lowest, _ = reachable(spec, allocation, multiple)
    if target_params < lowest:
        raise AutoPruneError(
            f"{target_params:,} parameters cannot be reached by axis {allocation.axis!r} with "
            f"these knobs: ask for at least {lowest:,} ({lowest / spec.total_params:.1%} of the "
            "model), or protect less"
        )
    removed = _removal(spec, scores, allocation, target_params, multiple)
    counts: dict[tuple[int, str], int] = {}
    if allocation.axis != "depth":
        chains = chains_of(spec, allocation, removed, multiple, scores)
        counts = cut_to_size(chains, params_without(spec, removed) - target_params)
    layers = []
    for index in range(len(spec.layers)):
        shape = shape_without(spec.layers[index], index, removed)
        if shape is not None:
            heads = counts.get((index, ATTENTION))
            channels = counts.get((index, MLP), shape.channels)
            layers.append(
                LayerPlan(
                    index,
                    _heads(spec, scores, allocation, index, heads) if shape.heads else (),
                    tuple(_best(scores.channels[index, : shape.channels], channels)),
                )
            )
    return PruningPlan(
        spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, tuple(layers)
    )


def _heads(
    spec: BackboneSpec,
    scores: UnitScores,
    allocation: Allocation,
    index: int,
    count: int | None,
) -> tuple[int, ...]:
    """Return the heads that a layer keeps: all, ``count`` groups, or ``count`` of each group."""
    shape, per_group = spec.layers[index], spec.q_per_group
    if count is None:
        return tuple(range(shape.heads))
    if not by_query(spec, allocation):
        kept = _best(scores.groups[index, : shape.kv_heads], count)
        return heads_of_groups(kept, per_group)
    assert scores.heads is not None  # checked before
    return tuple(
        start + place
        for start in range(0, shape.heads, per_group)
        for place in _best(scores.heads[index, start : start + per_group], count)
    )


def _best(scores: np.ndarray, count: int) -> list[int]:
    """Return the ``count`` best units, ascending; of equal ones the first."""
    if count == len(scores):
        return list(range(count))
    bar = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = scores > bar
    equal = np.flatnonzero(scores == bar)[: count - int(above.sum())]
    above[equal] = True
    return np.flatnonzero(above).tolist()


def _check(spec: BackboneSpec, scores: UnitScores, allocation: Allocation, multiple: int) -> None:
    if multiple < 1:
        raise AutoPruneError(f"multiple is {multiple}: it must be at least 1")
    wanted = (
        len(spec.layers),
        max(shape.kv_heads for shape in spec.layers),
        max(shape.channels for shape in spec.layers),
    )
    found = (len(scores.layers), scores.groups.shape[1], scores.channels.shape[1])
    if wanted != found:
        raise AutoPruneError(
            f"scores are for (layers, KV groups, channels) {found} and the model has {wanted}: "
            "measure importance on this model"
        )
    if by_query(spec, allocation) and scores.heads is None:
        raise AutoPruneError("query heads have no scores: measure importance of this model again")
    for index, shape in enumerate(spec.layers):
        parts = (scores.groups[index, : shape.kv_heads], scores.channels[index, : shape.channels])
        if not (
            all(np.isfinite(part).all() for part in parts) and np.isfinite(scores.layers[index])
        ):
            raise AutoPruneError(
                f"scores of layer {index} are not finite: measure importance in float32"
            )


def _smallest(spec: BackboneSpec, allocation: Allocation, removed: Removed, multiple: int) -> int:
    """Return the smallest size that widths can reach once ``removed`` is gone."""
    left = params_without(spec, removed)
    if allocation.axis == "depth":
        return left
    return left - cheapest(chains_of(spec, allocation, removed, multiple))


def _removal(
    spec: BackboneSpec,
    scores: UnitScores,
    allocation: Allocation,
    target: int,
    multiple: int,
) -> Removed:
    """Return what depth takes: as much as the axis asks for, the least influential units."""
    if allocation.axis == "width":
        return frozenset()
    cut = spec.total_params - target
    sets = removal_sets(spec, scores, allocation)
    gone = [spec.total_params - params_without(spec, removed) for removed in sets]
    if allocation.axis == "depth":
        return sets[next(n for n in range(len(sets)) if gone[n] >= cut)]
    wish = allocation.depth_share * cut
    fits = [n for n in range(len(sets)) if gone[n] <= cut]
    nearest = min(fits, key=lambda n: abs(gone[n] - wish))
    for n in [*range(nearest, fits[-1] + 1), *range(fits[-1] + 1, len(sets))]:
        if _smallest(spec, allocation, sets[n], multiple) <= target:
            return sets[n]
    return sets[-1]
