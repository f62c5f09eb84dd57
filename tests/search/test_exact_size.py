"""Every candidate of every space meets its size within one unit, and stays in the budget."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import CONTEXT
from support.shapes import shape_config

from autoprune.models.shape import BackboneSpec, spec_of
from autoprune.pruning.allocation import reachable
from autoprune.pruning.depth import sublayer_params
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import PruningPlan, dense_plan
from autoprune.pruning.rescore import part_way
from autoprune.pruning.scores import Importance
from autoprune.search.candidates.decode import DecodeContext, decode, unit_scores
from autoprune.search.knobs.space import Choice, Space, list_spaces, load_space
from autoprune.search.knobs.table import Value
from autoprune.testing.toy import toy_importance, toy_spec

SHAPES = {
    "heads with keys of their own": toy_spec(6, 4, 4, 64, 9_000),
    "grouped heads": toy_spec(9, 8, 2, 128, 30_000),
    "one group": toy_spec(5, 6, 1, 96, 0),
    "narrow and deep": toy_spec(16, 2, 2, 16, 200_000),
}
REAL = ("llava-1.5-7b", "qwen2.5-vl-7b")


@lru_cache
def real(name: str) -> tuple[BackboneSpec, Importance]:
    spec = spec_of(shape_config(name))
    return spec, toy_importance(spec)


def unit_of(spec: BackboneSpec, knobs: dict[str, Value], multiple: int, stock: bool) -> int:
    """The most that a plan may be below its size: what the issue calls one unit."""
    shape = spec.layers[0]
    if knobs["axis"] == "depth":
        if knobs["depth_unit"] == "sublayer" and not stock:
            return max(*sublayer_params(spec, shape).values()) + spec.layer_fixed_params
        return spec.layer_params[0]
    step = max(spec.attention_group_params, spec.head_params * shape.kv_heads)
    if stock:
        # One uniform step: a group or head of every layer, or up to the next count that loads.
        counts = [n for n in range(1, shape.heads + 1) if spec.takes_heads(n)]
        gap = max(np.diff(counts), default=1) if len(counts) > 1 else shape.heads
        per_head = spec.head_params + spec.kv_head_params * shape.kv_heads / shape.heads
        step = max(step, int(gap * per_head) + spec.kv_head_params * shape.kv_heads)
        return max(
            len(spec.layers) * max(step, multiple * spec.channel_params), spec.layer_params[0]
        )
    return max(step, multiple * spec.channel_params)


def drawn(space: Space, draw: st.DrawFn) -> dict[str, Value]:
    """A point of a space, its ends more often than not."""
    found: dict[str, Value] = {}
    for name, domain in space.knobs.items():
        if isinstance(domain, Choice):
            found[name] = draw(st.sampled_from(domain.choices))
        elif domain.integer:
            found[name] = draw(st.integers(int(domain.low), int(domain.high)))
        else:
            found[name] = draw(st.floats(domain.low, domain.high))
    return space.complete(found)


def check(knobs: dict[str, Value], context: DecodeContext) -> None:
    spec = context.spec
    plan = decode(knobs, context).plan
    size = spec.params_of(plan.shapes)
    assert size <= context.max_params
    if "backbone_removed" in knobs:
        target = spec.total_params - round(float(knobs["backbone_removed"]) * spec.backbone_params)
    else:
        span = context.max_params - context.min_params
        target = round(context.min_params + float(knobs["size"]) * span)
    unit = unit_of(spec, knobs, context.multiple, context.stock)
    assert abs(target - size) < unit, (target - size, unit)
    if context.stock:
        assert spec.deployability(plan.shapes) == "stock"


def context_of(
    spec: BackboneSpec, found: Importance, multiple: int, stock: bool, share: float
) -> DecodeContext:
    """Sizes from what everything reaches, up to a share of the rest."""
    axes = [Allocation(axis=axis, stock=stock) for axis in ("width", "depth", "hybrid")]
    least = max(reachable(spec, axis, multiple)[0] for axis in axes)
    most = least + round(share * (spec.total_params - least))
    return replace(
        CONTEXT,
        spec=spec,
        importance=found,
        multiple=multiple,
        stock=stock,
        min_params=least,
        max_params=most,
    )


@settings(max_examples=400, deadline=None)
@given(
    st.data(),
    st.sampled_from(sorted(list_spaces())),
    st.sampled_from(sorted(SHAPES)),
    st.sampled_from([1, 16]),
    st.booleans(),
    st.sampled_from([0.5, 0.9]),
)
def test_every_space_meets_its_sizes_on_every_shape(
    data: st.DataObject, name: str, shape: str, multiple: int, stock: bool, share: float
) -> None:
    spec = SHAPES[shape]
    space = load_space(name)
    knobs = drawn(space, data.draw)
    context = context_of(spec, toy_importance(spec), multiple, stock, share)
    if "backbone_removed" in knobs:
        removed = float(knobs["backbone_removed"])
        kept = spec.total_params - round(removed * spec.backbone_params)
        context = replace(context, max_params=max(kept, context.min_params))
        if kept < context.min_params:
            return
    if not context.rescored and knobs["rescore"] == "tenths":
        context = part_cut(knobs, context, data.draw(st.integers(0, 9)))
    check(knobs, context)


def part_cut(knobs: dict[str, Value], context: DecodeContext, steps: int) -> DecodeContext:
    """The context of a cut under way: what is gone is unknown, and the rest is worth anew."""
    now, dense = dense_plan(context.spec), context.importance
    for step in range(1, steps + 1):
        wanted = decode(knobs, context).plan
        before = now
        now = part_way(before, wanted, unit_scores(knobs, context), step, 10, context.multiple)
        kept = {layer.index: layer for layer in before.layers}
        for layer in now.layers:
            assert set(layer.heads) <= set(kept[layer.index].heads)
            assert set(layer.channels) <= set(kept[layer.index].channels)
        context = replace(context, importance=again(dense, now, step), rescored=True)
    return context


def again(dense: Importance, plan: PruningPlan, seed: int) -> Importance:
    """Other figures for what is kept, none for what is gone."""
    rng = np.random.default_rng(seed)
    kept = {layer.index: layer for layer in plan.layers}
    arrays = {}
    for name, values in vars(dense).items():
        if not isinstance(values, np.ndarray) or name.endswith("_params"):
            continue
        fresh = rng.random(values.shape)
        kind = name.rpartition("_")[2]
        for index in range(len(values)):
            layer = kept.get(index)
            if layer is None:
                fresh[index] = np.nan
                continue
            units = {
                "groups": plan.kv_heads(layer),
                "heads": layer.heads,
                "channels": layer.channels,
            }
            if kind in units and values.shape[1]:
                gone = np.ones(values.shape[1], bool)
                gone[list(units[kind])] = False
                fresh[index, gone] = np.nan
        arrays[name] = fresh
    return replace(dense, **arrays)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("space", ["hybrid", "stock", "per_layer", "paper"])
def test_real_shapes_meet_their_sizes(name: str, stock: bool, space: str) -> None:
    spec, found = real(name)
    context = context_of(spec, found, 64, stock, 0.9)
    rng = np.random.default_rng(len(name) + stock)
    read = load_space(space)
    for _ in range(3):
        point: dict[str, Value] = {}
        for knob, domain in read.knobs.items():
            if isinstance(domain, Choice):
                point[knob] = domain.choices[rng.integers(len(domain.choices))]
            elif domain.integer:
                point[knob] = int(rng.integers(int(domain.low), int(domain.high) + 1))
            else:
                point[knob] = float(rng.uniform(domain.low, domain.high))
        check(read.complete(point), context)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("attention_share", [0.2, 0.8])
def test_a_cut_under_way_goes_on_between_attention_and_mlp_as_asked(
    temperature: float, attention_share: float
) -> None:
    """What is gone must not push the rest of its kind up among the others.

    Where the knobs lean on one kind; at an even split new figures may well move it.
    """
    spec = toy_spec(8, 8, 8, 256, 0)
    context = context_of(spec, toy_importance(spec), 1, False, 1.0)
    point = {"temperature": temperature, "attention_share": attention_share, "axis": "width"}
    knobs = load_space("hybrid").complete({**point, "size": 0.4, "protect_first": 0})
    once = decode(knobs, context).plan
    under_way = part_way(dense_plan(spec), once, unit_scores(knobs, context), 9, 10)
    for _ in range(4):
        under_way = part_way(under_way, once, unit_scores(knobs, context), 8, 10)
    again_measured = replace(context, importance=again(context.importance, under_way, 3))
    later = decode(knobs, replace(again_measured, rescored=True)).plan
    channels, before = (sum(s.channels for s in p.shapes) for p in (later, once))
    assert abs(channels - before) < 0.12 * 8 * 256
    heads, had = (sum(s.heads for s in p.shapes) for p in (later, once))
    assert abs(heads - had) < 0.12 * 8 * 8
