"""Allocation meets every reachable size exactly, whatever the knobs and shapes."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import tiny_model

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import state_arrays
from autoprune.models.families import Heads
from autoprune.models.shape import BackboneSpec, LayerShape, spec_of
from autoprune.pruning.allocation import allocate, baselines, reachable
from autoprune.pruning.knobs import BASELINES, Allocation
from autoprune.pruning.plan import PruningPlan, dense_plan
from autoprune.pruning.scores import UnitScores
from autoprune.pruning.surgery import prune


def make_spec(
    layers: int = 8,
    groups: int = 8,
    q: int = 1,
    channels: int = 24,
    hidden: int = 32,
    rule: Heads = "divisor",
    anchored: int = 0,
) -> BackboneSpec:
    head_dim = 4
    return BackboneSpec(
        model_type="llama",
        hidden_size=hidden,
        head_dim=head_dim,
        layers=(LayerShape(groups * q, groups, channels),) * layers,
        head_params=2 * head_dim * hidden,
        kv_head_params=2 * head_dim * hidden,
        channel_params=3 * hidden,
        attention_fixed_params=hidden,
        mlp_fixed_params=hidden,
        layer_fixed_params=0,
        outside_params=12_345,
        stock_heads=rule,
        anchored=min(anchored, layers),
    )


def make_scores(spec: BackboneSpec, seed: int = 0, tied: bool = False) -> UnitScores:
    rng = np.random.default_rng(seed)
    shape, layers = spec.layers[0], len(spec.layers)

    def draw(*size: int) -> np.ndarray:
        drawn = rng.lognormal(0, 2, size)
        return np.round(drawn) if tied else drawn

    return UnitScores(
        draw(layers, shape.kv_heads),
        draw(layers, shape.channels),
        draw(layers),
        draw(layers),
        draw(layers),
        draw(layers, shape.heads),
    )


SPECS = st.builds(
    make_spec,
    layers=st.integers(1, 9),
    groups=st.integers(1, 8),
    q=st.integers(1, 4),
    channels=st.integers(1, 40),
    rule=st.sampled_from(["any", "divisor", "dense"]),
    anchored=st.integers(0, 2),
)
SHARE = st.floats(0, 1)
WINDOWS = st.tuples(SHARE, SHARE).map(lambda pair: tuple(sorted(pair)))
ALLOCATIONS = st.builds(
    lambda stock, depth_unit, **knobs: Allocation(
        stock=stock, depth_unit="layer" if stock else depth_unit, **knobs
    ),
    depth_unit=st.sampled_from(["layer", "sublayer"]),
    head_unit=st.sampled_from(["group", "query"]),
    axis=st.sampled_from(["width", "hybrid", "depth"]),
    depth_share=SHARE,
    contiguous=st.booleans(),
    temperature=SHARE,
    attention_share=SHARE,
    profile_slope=st.floats(-1, 1),
    profile_curve=st.floats(-1, 1),
    protect_first=st.integers(0, 3),
    protect_last=st.integers(0, 3),
    attention_window=WINDOWS | st.just((0.0, 1.0)),
    mlp_window=WINDOWS | st.just((0.0, 1.0)),
    layer_ratios=st.none() | st.lists(st.floats(0.05, 1), min_size=1, max_size=9).map(tuple),
    stock=st.booleans(),
)


def is_cut_here(allocation: Allocation, index: int, depth: int, kind: str) -> bool:
    share = allocation.attention_share if kind == "attention" else 1 - allocation.attention_share
    if allocation.axis == "depth" or share == 0:
        return False
    if allocation.stock:
        return True
    window = allocation.attention_window if kind == "attention" else allocation.mlp_window
    ratios = allocation.layer_ratios or (0.5,)
    return (
        allocation.protect_first <= index < depth - allocation.protect_last
        and window[0] <= index / depth < window[1]
        and ratios[index * len(ratios) // depth] < 1
    )


def next_width(kept: int, dense: int, multiple: int) -> int:
    """The width that one more unit would give."""
    return min(kept + multiple, dense) if kept % multiple == 0 else dense


def more_heads(
    spec: BackboneSpec, allocation: Allocation, shape: LayerShape, dense: LayerShape
) -> LayerShape:
    """The shape with one more KV group, or one more query head in each."""
    q = spec.q_per_group
    if allocation.head_unit == "query" and q > 1:
        options = [(m * dense.kv_heads, dense.kv_heads) for m in range(1, q + 1)]
    else:
        options = [(n * q, n) for n in range(1, dense.kv_heads + 1)]
    wider = [
        (heads, kv)
        for heads, kv in options
        if heads > shape.heads and (not allocation.stock or spec.takes_heads(heads))
    ]
    return LayerShape(*wider[0], shape.channels) if wider else shape


def sizes_with_one_unit_more(
    spec: BackboneSpec, allocation: Allocation, plan: PruningPlan, multiple: int
) -> list[int]:
    """Sizes of all plans that hold one more unit of what the allocation may cut."""
    depth, sizes = len(spec.layers), []
    shapes = {layer.index: shape for layer, shape in zip(plan.layers, plan.shapes, strict=True)}
    steps = [(index,) for index in shapes]
    if allocation.stock:
        steps = [tuple(shapes)]
    for step in steps:
        for kind in ("attention", "mlp"):
            changed = dict(shapes)
            for index in step:
                dense, shape = spec.layers[index], shapes[index]
                there = shape.heads if kind == "attention" else shape.channels
                if not there or not is_cut_here(allocation, index, depth, kind):
                    continue
                if kind == "mlp":
                    wide = next_width(shape.channels, dense.channels, multiple)
                    changed[index] = dataclasses.replace(shape, channels=wide)
                else:
                    changed[index] = more_heads(spec, allocation, shape, dense)
            if changed != shapes:
                sizes.append(spec.params_of(changed.values()))
    whole = allocation.depth_unit == "layer" and not allocation.stock
    if allocation.axis != "width" and plan.dropped_layers and whole:
        sizes.append(spec.params_of(plan.shapes) + spec.layer_params[0])
    return sizes


@given(SPECS, ALLOCATIONS, st.integers(1, 12), SHARE, st.integers(0, 5), st.booleans())
@settings(max_examples=400, deadline=None)
def test_exact_within_one_unit(
    spec: BackboneSpec,
    allocation: Allocation,
    multiple: int,
    where: float,
    seed: int,
    tied: bool,
) -> None:
    scores = make_scores(spec, seed, tied)
    low, high = reachable(spec, allocation, multiple)
    assert high == spec.total_params
    target = int(low + where * (high - low))
    plan = allocate(spec, scores, allocation, target, multiple)
    plan.check(spec)
    size = spec.params_of(plan.shapes)
    assert size <= target
    for larger in sizes_with_one_unit_more(spec, allocation, plan, multiple):
        assert larger > target
    depth = len(spec.layers)
    protected = {*range(min(allocation.protect_first, depth))}
    protected |= {*range(max(0, depth - allocation.protect_last), depth)}
    for layer, shape in zip(plan.layers, plan.shapes, strict=True):
        dense = spec.layers[layer.index]
        assert shape.channels % multiple == 0 or shape.channels == dense.channels
        if allocation.head_unit == "group" or spec.q_per_group == 1:
            assert shape.heads == shape.kv_heads * spec.q_per_group
        elif shape.heads:
            assert shape.kv_heads == dense.kv_heads
        may_go = allocation.axis != "width" and allocation.depth_unit == "sublayer"
        may_go = may_go and layer.index not in protected
        if not is_cut_here(allocation, layer.index, depth, "attention"):
            assert shape.heads == dense.heads or (may_go and not shape.heads)
        if not is_cut_here(allocation, layer.index, depth, "mlp"):
            assert shape.channels == dense.channels or (may_go and not shape.channels)
        assert may_go or (shape.heads and shape.channels)
    assert not protected & set(plan.dropped_layers)
    assert not {*range(spec.anchored)} & set(plan.dropped_layers)
    if allocation.axis == "width":
        assert not plan.dropped_layers
    if allocation.stock:
        assert spec.deployability(plan.shapes) == "stock"
    if allocation.contiguous and allocation.depth_unit == "layer" and plan.dropped_layers:
        dropped = plan.dropped_layers
        assert dropped[-1] - dropped[0] == len(dropped) - 1
    assert plan == allocate(spec, scores, allocation, target, multiple)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=6),
    st.builds(Allocation, axis=st.just("width"), temperature=SHARE, attention_share=SHARE),
    st.integers(1, 9),
    SHARE,
)
@settings(max_examples=100, deadline=None)
def test_exact_on_a_model_that_is_pruned_already(
    shapes: list[tuple[int, int]], allocation: Allocation, multiple: int, where: float
) -> None:
    shapes = [(groups or int(channels == 0), channels) for groups, channels in shapes]
    spec = make_spec(q=2).with_layers(LayerShape(2 * g, g, c) for g, c in shapes)
    rng = np.random.default_rng(0)
    widest = max(g for g, _ in shapes), max(c for _, c in shapes)
    groups, channels = (rng.random((len(shapes), n)) for n in widest)
    for index, (g, c) in enumerate(shapes):
        groups[index, g:] = channels[index, c:] = np.nan
    layers = rng.random(len(shapes))
    scores = UnitScores(groups, channels, layers, layers, layers)
    low, high = reachable(spec, allocation, multiple)
    target = int(low + where * (high - low))
    plan = allocate(spec, scores, allocation, target, multiple)
    plan.check(spec)
    assert spec.params_of(plan.shapes) <= target
    for larger in sizes_with_one_unit_more(spec, allocation, plan, multiple):
        assert larger > target


@given(SPECS, ALLOCATIONS, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_what_cannot_be_reached(spec: BackboneSpec, allocation: Allocation, multiple: int) -> None:
    low, _ = reachable(spec, allocation, multiple)
    with pytest.raises(AutoPruneError, match=f"at least {low:,}"):
        allocate(spec, make_scores(spec), allocation, low - 1, multiple)


def test_query_heads_go_within_their_groups() -> None:
    spec = make_spec(q=4, groups=3)
    scores = make_scores(spec)
    allocation = Allocation(axis="width", head_unit="query", attention_share=1.0)
    plan = allocate(spec, scores, allocation, int(0.9 * spec.total_params))
    assert any(shape.heads < 12 for shape in plan.shapes)
    for layer, shape in zip(plan.layers, plan.shapes, strict=True):
        assert shape.kv_heads == 3
        for group in range(3):
            row = scores.heads[layer.index, 4 * group : 4 * group + 4]
            kept = [head - 4 * group for head in layer.heads if head // 4 == group]
            assert len(kept) == shape.heads // 3
            assert row[kept].min() > np.delete(row, kept).max(initial=-1)
    with pytest.raises(AutoPruneError, match="query heads have no scores"):
        allocate(
            spec, dataclasses.replace(scores, heads=None), allocation, int(0.9 * spec.total_params)
        )


def test_sublayers_go_by_influence_a_parameter() -> None:
    spec = make_spec()
    scores = make_scores(spec)
    allocation = Allocation(axis="depth", depth_unit="sublayer", protect_first=1)
    plan = allocate(spec, scores, allocation, int(0.7 * spec.total_params))
    attention, mlp = (
        spec.params_of_layer(shape) for shape in (LayerShape(8, 8, 0), LayerShape(0, 0, 24))
    )
    kept = {layer.index: layer for layer in plan.layers}
    gone, left, costs = [], [], []
    for index in range(1, 8):
        layer = kept.get(index)
        for influence, cost, there in (
            (scores.attention, attention, layer is not None and bool(layer.heads)),
            (scores.mlp, mlp, layer is not None and bool(layer.channels)),
        ):
            (left if there else gone).append(influence[index] / cost)
            costs += [] if there else [cost]
    assert gone
    assert max(gone) < min(left)
    size, last = spec.params_of(plan.shapes), costs[int(np.argmax(gone))]
    assert size <= int(0.7 * spec.total_params) < size + last
    with pytest.raises(AutoPruneError, match="both sublayers"):
        Allocation(depth_unit="sublayer", stock=True)


def test_kept_units_are_the_best_of_their_layer() -> None:
    spec = make_spec(q=2)
    scores = make_scores(spec)
    plan = allocate(spec, scores, Allocation(axis="width"), int(0.6 * spec.total_params))
    for layer in plan.layers:
        row = scores.channels[layer.index]
        out = np.setdiff1d(np.arange(len(row)), layer.channels)
        assert row[list(layer.channels)].min() > row[out].max(initial=-1)
        groups = plan.kv_heads(layer)
        row = scores.groups[layer.index]
        out = np.setdiff1d(np.arange(len(row)), groups)
        assert row[list(groups)].min() > row[out].max(initial=-1)


def fractions(spec: BackboneSpec, plan: PruningPlan) -> np.ndarray:
    return np.array(
        [
            (shape.kv_heads / spec.layers[0].kv_heads, shape.channels / spec.layers[0].channels)
            for shape in plan.shapes
        ]
    )


BIG = make_spec(layers=16, groups=32, channels=200)
BIG_SCORES = make_scores(BIG)
HALF = BIG.outside_params + BIG.backbone_params // 2


def test_temperature_zero_is_uniform() -> None:
    plan = allocate(BIG, BIG_SCORES, Allocation(axis="width", temperature=0), HALF)
    kept = fractions(BIG, plan)
    assert np.ptp(kept[:, 0]) <= 1.01 / 32
    assert np.ptp(kept[:, 1]) <= 1.01 / 200
    assert np.allclose(kept, 0.5, atol=1 / 32)


def test_temperature_one_is_one_ranking() -> None:
    plan = allocate(BIG, BIG_SCORES, Allocation(axis="width", temperature=1), HALF)
    kept = np.concatenate(
        [BIG_SCORES.channels[layer.index, list(layer.channels)] for layer in plan.layers]
    )
    out = np.setdiff1d(BIG_SCORES.channels, kept)
    assert kept.min() >= out.max()
    groups = np.concatenate(
        [BIG_SCORES.groups[layer.index, list(plan.kv_heads(layer))] for layer in plan.layers]
    )
    # One bar for both kinds; a group may miss it by what the last unit left over.
    bar = out.max()
    assert np.mean(groups > bar) > 0.95
    assert np.ptp(fractions(BIG, plan)[:, 1]) > 0.1


def test_attention_share_and_profiles_lean_the_cut() -> None:
    def kept(**knobs: float) -> np.ndarray:
        allocation = Allocation(axis="width", temperature=0, **knobs)
        return fractions(BIG, allocate(BIG, BIG_SCORES, allocation, HALF))

    low, high = kept(attention_share=0.2).mean(0), kept(attention_share=0.7).mean(0)
    assert low[0] > 0.7 > 0.5 > low[1]
    assert high[0] < 0.4 < 0.5 < high[1]
    untouched = kept(attention_share=0.0)
    assert (untouched[:, 0] == 1).all()
    sloped = kept(profile_slope=0.5)[:, 1]
    assert (np.diff(sloped) <= 0).all()
    assert sloped[0] - sloped[-1] > 0.3
    curved = kept(profile_curve=0.5)[:, 1]
    assert curved[8] - curved[0] > 0.2
    assert curved[8] - curved[-1] > 0.2


def test_layer_ratios_give_the_shape_of_the_cut() -> None:
    ratios = tuple(np.linspace(0.3, 1, 16))
    allocation = Allocation(axis="width", temperature=0, layer_ratios=ratios)
    wish = BIG.params_of(LayerShape(round(32 * r), round(32 * r), round(200 * r)) for r in ratios)
    kept = fractions(BIG, allocate(BIG, BIG_SCORES, allocation, wish))
    assert np.allclose(kept[:, 1], ratios, atol=0.04)
    assert kept[-1].tolist() == [1, 1]
    by_run = Allocation(axis="width", temperature=0, layer_ratios=(1.0, 0.5))
    kept = fractions(BIG, allocate(BIG, BIG_SCORES, by_run, int(0.8 * BIG.total_params)))
    assert (kept[:8] == 1).all()
    assert np.ptp(kept[8:, 1]) <= 1.01 / 200


def test_depth_takes_the_least_influential() -> None:
    spec = make_spec(layers=10)
    scores = dataclasses.replace(make_scores(spec), layers=np.array([9, 8, 3, 1, 7, 2, 4, 5, 6, 0]))
    layer = spec.layer_params[0]

    def dropped(target: int, **knobs: object) -> tuple[int, ...]:
        return allocate(spec, scores, Allocation(**knobs), target).dropped_layers

    three = spec.total_params - 3 * layer
    assert dropped(three, axis="depth") == (3, 5, 9)
    assert dropped(three - 1, axis="depth") == (2, 3, 5, 9)
    assert dropped(three, axis="depth", protect_last=1) == (2, 3, 5)
    assert dropped(three, axis="depth", contiguous=True) == (3, 4, 5)
    assert dropped(three + 1, axis="hybrid", depth_share=1) == (3, 9)
    assert dropped(three, axis="hybrid", depth_share=0.4) == (9,)
    assert dropped(three, axis="hybrid", depth_share=0) == ()
    # Widths alone cannot give this cut, so layers have to.
    low, _ = reachable(spec, Allocation(axis="width"))
    assert dropped(low - 1, axis="hybrid", depth_share=0) == (9,)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("fraction", [0.5, 0.7, 0.9])
def test_baselines(fraction: float, multiple: int) -> None:
    target = int(fraction * BIG.total_params)
    found = baselines(BIG, target, multiple)
    assert set(BASELINES) - set(found) <= {"width_window"}
    for name, allocation in found.items():
        size = BIG.params_of(allocate(BIG, BIG_SCORES, allocation, target, multiple).shapes)
        unit = BIG.layer_params[0] if name == "depth" else multiple * BIG.channel_params
        assert target - unit < size <= target, name


def test_window_of_the_study_on_its_depth() -> None:
    spec = make_spec(layers=32)
    target = int(0.8 * spec.total_params)
    plan = allocate(spec, make_scores(spec), BASELINES["width_window"], target)
    heads = [layer.index for layer in plan.layers if len(layer.heads) < 8]
    channels = [layer.index for layer in plan.layers if len(layer.channels) < 24]
    assert heads == list(range(3, 21))
    assert channels == list(range(3, 20))


def test_the_dense_size_keeps_everything() -> None:
    spec = make_spec()
    for extra in (0, 10):
        target = spec.total_params + extra
        assert allocate(spec, make_scores(spec), Allocation(), target) == dense_plan(spec)


def test_knobs_as_data() -> None:
    for allocation in (*BASELINES.values(), Allocation(layer_ratios=(0.5, 1.0), stock=True)):
        assert Allocation.from_dict(allocation.to_dict()) == allocation
    with pytest.raises(AutoPruneError, match="did you mean 'temperature'"):
        Allocation.from_dict({"temprature": 1})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"axis": "witdh"}, "did you mean 'width'"),
        ({"temperature": 1.5}, "temperature is 1.5"),
        ({"attention_share": float("nan")}, "attention_share is nan"),
        ({"profile_slope": float("inf")}, "profile_slope is inf"),
        ({"protect_first": -1}, "protect_first is -1"),
        ({"mlp_window": (0.7, 0.2)}, "mlp_window is"),
        ({"layer_ratios": (0.5, 0.0)}, "layer ratio 0"),
        ({"layer_ratios": ()}, "layer_ratios is empty"),
    ],
)
def test_bad_knobs(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(AutoPruneError, match=message):
        Allocation(**knobs)


def test_bad_scores() -> None:
    spec = make_spec()
    with pytest.raises(AutoPruneError, match="measure importance on this model"):
        allocate(spec, make_scores(make_spec(layers=7)), Allocation(), 50_000)
    scores = make_scores(spec)
    scores.channels[3, 2] = np.nan
    with pytest.raises(AutoPruneError, match="layer 3 are not finite"):
        allocate(spec, scores, Allocation(), 50_000)
    with pytest.raises(AutoPruneError, match="multiple is 0"):
        allocate(spec, make_scores(spec), Allocation(), 50_000, 0)


def test_fast_at_real_size() -> None:
    spec = make_spec(layers=32, groups=32, channels=11_008, hidden=4096)
    scores = make_scores(spec)
    begin = time.perf_counter()
    for _ in range(3):
        allocate(spec, scores, Allocation(), int(0.6 * spec.total_params), 64)
    assert (time.perf_counter() - begin) / 3 < 0.2


@given(ALLOCATIONS, st.integers(1, 6), SHARE, st.booleans())
@settings(max_examples=25, deadline=None)
def test_exact_on_a_real_model(
    allocation: Allocation, multiple: int, where: float, gqa: bool
) -> None:
    """The parameters of the model that surgery builds are what allocation counted."""
    model = tiny_model(gqa=gqa)
    spec = spec_of(model)
    low, high = reachable(spec, allocation, multiple)
    target = int(low + where * (high - low))
    plan = allocate(spec, make_scores(spec), allocation, target, multiple)
    pruned = prune(model.config, state_arrays(model), plan, spec=spec)
    params = sum(parameter.numel() for parameter in pruned.parameters())
    assert params == spec.params_of(plan.shapes) <= target
    for larger in sizes_with_one_unit_more(spec, allocation, plan, multiple):
        assert larger > target
