"""Cutting in steps: importance measured again on what is left, in the dense model's units.

What a unit is worth changes as others go. So a cut can be made a part at a time: go part of the
way to the plan that is wanted, measure importance on the model as it stands, choose the plan
anew with it, and go on. Units that are gone stay gone.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.scores import GONE, Importance, UnitScores

GONE_LAYER = -1e6
"""Influence of what is gone as a whole; a run of layers that holds it has the least sum."""


def gone_last(scores: UnitScores) -> UnitScores:
    """Return scores in which units without one, being gone, rank below all others."""

    def filled(values: np.ndarray, value: float) -> np.ndarray:
        return np.where(np.isnan(values), value, values)

    return UnitScores(
        groups=filled(scores.groups, GONE),
        channels=filled(scores.channels, GONE),
        layers=filled(scores.layers, GONE_LAYER),
        attention=filled(scores.attention, GONE_LAYER),
        mlp=filled(scores.mlp, GONE_LAYER),
        heads=None if scores.heads is None else filled(scores.heads, GONE),
    )


def lift(found: Importance, plan: PruningPlan, dense: Importance) -> Importance:
    """Return importance that was measured on a pruned model, in the dense model's units.

    Args:
        found: measured on the model of ``plan``.
        plan: what that model keeps.
        dense: measured on the dense model; gives the shapes, and the sizes of units that are gone.

    Returns:
        Importance in which what is gone is NaN.
    """
    lifted: dict[str, np.ndarray] = {}
    for field in fields(Importance):
        values = getattr(dense, field.name)
        if isinstance(values, np.ndarray):
            keep = field.name.endswith("_params")
            lifted[field.name] = values.copy() if keep else np.full_like(values, np.nan)
    for place, layer in enumerate(plan.layers):
        groups = list(plan.kv_heads(layer))
        units = {"groups": groups, "channels": list(layer.channels), "heads": list(layer.heads)}
        for name, values in lifted.items():
            kind = name.rpartition("_")[2]
            measured = getattr(found, name)
            if kind == "params":
                if np.isfinite(measured[place]):
                    values[layer.index] = measured[place]
            elif kind == "influence":
                values[layer.index] = measured[place]
            elif kind != "heads":
                values[layer.index, units[kind]] = measured[place, : len(units[kind])]
            elif values.shape[1] and groups:
                # Where one head of each group is left, what the group is worth is its own.
                alone = len(layer.heads) == len(groups)
                source = getattr(found, name.replace("_heads", "_groups")) if alone else measured
                values[layer.index, units["heads"]] = source[place, : len(layer.heads)]
    counts: dict[str, Any] = {
        "samples": found.samples,
        "answer_tokens": found.answer_tokens,
        "loss": found.loss,
    }
    return replace(dense, **{**lifted, **counts})


def part_way(
    now: PruningPlan,
    wanted: PruningPlan,
    scores: UnitScores,
    step: int,
    steps: int,
    multiple: int = 1,
) -> PruningPlan:
    """Return a plan part of the way from ``now`` to ``wanted``; it keeps nothing that is gone.

    Of what is still to go, one part in those that are left goes: of each sublayer its units of
    least score, and of dropped layers or sublayers those of least influence.

    Args:
        now: what is kept before the step.
        wanted: where the last step shall lead.
        scores: of the units, which ``wanted`` was chosen by.
        step: of ``steps``, from 1.
        steps: in all.
        multiple: widths on the way are multiples of it, or as they were.
    """
    share = 1 / (steps - step + 1)
    target = {layer.index: layer for layer in wanted.layers}
    falling = _falling(now, target, scores)
    most = int(len(falling) * share + 1e-9)
    dropped = set(falling[:most])
    layers = []
    for layer in now.layers:
        index, aim = layer.index, target.get(layer.index)
        heads: tuple[int, ...] = layer.heads
        channels: tuple[int, ...] = layer.channels
        if (index, "attention") in dropped or (index, "layer") in dropped:
            heads = ()
        elif aim is not None and aim.heads:
            heads = _heads(now, layer, aim, scores, share)
        if (index, "mlp") in dropped or (index, "layer") in dropped:
            channels = ()
        elif aim is not None and aim.channels:
            count = len(channels) - int((len(channels) - len(aim.channels)) * share)
            if count < len(channels):
                count = min(len(channels), -(-count // multiple) * multiple)
            channels = _thinned(channels, aim.channels, scores.channels[index], count)
        if heads or channels:
            layers.append(LayerPlan(index, heads, channels))
    return replace(now, layers=tuple(layers))


def _falling(
    now: PruningPlan, target: dict[int, LayerPlan], scores: UnitScores
) -> list[tuple[int, str]]:
    """Return layers and sublayers that are still to be dropped, the least influential first."""
    found: list[tuple[float, int, str]] = []
    for layer in now.layers:
        aim = target.get(layer.index)
        if aim is None:
            found.append((float(scores.layers[layer.index]), layer.index, "layer"))
            continue
        if layer.heads and not aim.heads:
            found.append((float(scores.attention[layer.index]), layer.index, "attention"))
        if layer.channels and not aim.channels:
            found.append((float(scores.mlp[layer.index]), layer.index, "mlp"))
    return [(index, what) for _, index, what in sorted(found)]


def _heads(
    now: PruningPlan, layer: LayerPlan, aim: LayerPlan, scores: UnitScores, share: float
) -> tuple[int, ...]:
    """Thin the heads of a layer: whole KV groups, or equally many heads of each.

    What is gone stays gone, even if a plan that was made anew wants heads there.
    """
    if not layer.heads:
        return ()
    groups, wanted = now.kv_heads(layer), now.kv_heads(aim)
    if set(wanted) < set(groups):
        count = len(groups) - int((len(groups) - len(wanted)) * share)
        kept = set(_thinned(groups, wanted, scores.groups[layer.index], count))
        return tuple(head for head in layer.heads if head // now.q_per_group in kept)
    each, less = len(layer.heads) // len(groups), len(aim.heads) // max(1, len(wanted))
    if scores.heads is None or less >= each:
        return layer.heads
    count = each - int((each - less) * share)
    found: list[int] = []
    for group in groups:
        mine = tuple(h for h in layer.heads if h // now.q_per_group == group)
        found.extend(_thinned(mine, aim.heads, scores.heads[layer.index], count))
    return tuple(sorted(found))


def _thinned(
    units: tuple[int, ...], wanted: tuple[int, ...], worth: np.ndarray, count: int
) -> tuple[int, ...]:
    """Return ``count`` of ``units``: those that are wanted, then those that are worth most."""
    if count >= len(units):
        return units
    chosen = set(wanted)
    order = sorted(units, key=lambda unit: (unit not in chosen, -worth[unit], unit))
    return tuple(sorted(order[:count]))
