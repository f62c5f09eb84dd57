"""From a target size to a plan: how many units each layer loses, exact in size.

Importance decides *which* units go; a handful of knobs decides *how many* go where. Every unit
gets a removal key, and units are removed by rising key until the target is met; then units are
put back as long as one fits. No loop runs over units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.chains import ATTENTION, MLP, by_query, chains_of, cheapest, cut_to_size
from autoprune.pruning.depth import (
    Removed,
    everything,
    params_without,
    removal_sets,
    shape_without,
)
from autoprune.pruning.knobs import BASELINES, Allocation
from autoprune.pruning.layout import Layout, plan_of
from autoprune.pruning.plan import PruningPlan, dense_plan
from autoprune.pruning.scores import UnitScores


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
    return plan_of(spec, scores, _layout(spec, allocation, removed, counts))


def _layout(
    spec: BackboneSpec,
    allocation: Allocation,
    removed: Removed,
    counts: Mapping[tuple[int, str], int],
) -> Layout:
    """Return what is kept: nothing of what is removed, else ``counts``, or all without one."""
    rows = []
    for index, dense in enumerate(spec.layers):
        shape = shape_without(dense, index, removed) or LayerShape(0, 0, 0)
        heads, groups = shape.heads, shape.kv_heads
        if groups and (count := counts.get((index, ATTENTION))) is not None:
            if by_query(spec, allocation):
                heads = count * groups
            else:
                heads, groups = count * spec.q_per_group, count
        channels = counts.get((index, MLP), shape.channels) if shape.channels else 0
        rows.append((heads, groups, channels))
    return Layout(*(tuple(part) for part in zip(*rows, strict=True)))


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
