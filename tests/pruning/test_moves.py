"""Level-switch moves keep size and rules, whatever the model, the plan and the seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_allocation import ALLOCATIONS, SPECS, make_scores, make_spec

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.allocation import allocate, largest_unit, reachable
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.layout import Layout, layout_of, plan_of
from autoprune.pruning.moves import Frame, moved
from autoprune.pruning.plan import PruningPlan


def steps_up(frame: Frame, layout: Layout, within: bool) -> list[int]:
    """Return the size of every layout that keeps one step more of one kept sublayer."""
    spec, sizes = frame.spec, []

    def put(rows: dict[int, tuple[int, int, int]]) -> None:
        kept = list(zip(layout.heads, layout.groups, layout.channels, strict=True))
        for index, row in rows.items():
            kept[index] = row
        sizes.append(spec.params_of(Layout(*zip(*kept, strict=True)).shapes))

    kept = [i for i in range(len(spec.layers)) if layout.heads[i] or layout.channels[i]]
    for layers in [kept] if frame.stock else [[index] for index in kept]:
        heads, groups, channels = (
            part[layers[0]] for part in (layout.heads, layout.groups, layout.channels)
        )
        dense = spec.layers[layers[0]]
        if channels and channels < dense.channels:
            wider = min(channels + frame.multiple - channels % frame.multiple, dense.channels)
            if wider + frame.multiple > dense.channels and wider % frame.multiple:
                wider = dense.channels
            put({i: (layout.heads[i], layout.groups[i], wider) for i in layers})
        if not groups:
            continue
        ratio = spec.q_per_group
        more = [(groups * n, groups) for n in range(heads // groups + 1, ratio + 1)]
        if not within:
            more = [(n * ratio, n) for n in range(groups + 1, dense.kv_heads + 1)]
        more = [m for m in more if not frame.stock or spec.takes_heads(m[0])]
        if more:
            put({i: (*more[0], layout.channels[i]) for i in layers})
    return sizes


# Layouts whose first layer lacks a sublayer: what protects the last one leaves the first open.
HALVED = Allocation(
    "hybrid", depth_share=0.0, depth_unit="sublayer", temperature=0.0, protect_last=1
)


@settings(max_examples=150, deadline=None)
@example(make_spec(2, 2, 1, 12), dataclasses.replace(HALVED, attention_share=1.0), 0.25, 1, 1, 1)
@example(make_spec(2, 1, 2, 2), dataclasses.replace(HALVED, attention_share=0.0), 0.125, 0, 1, 1)
@given(
    SPECS,
    ALLOCATIONS,
    st.floats(0, 1),
    st.integers(0, 2**31 - 1),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_moves_are_exact_valid_different_and_seeded(
    spec: BackboneSpec, allocation: Allocation, at: float, seed: int, multiple: int, moves: int
) -> None:
    low, high = reachable(spec, allocation, multiple)
    scores = make_scores(spec, seed % 7)
    plan = allocate(spec, scores, allocation, round(low + at * (high - low)), multiple)
    layout, target = layout_of(plan), spec.params_of(plan.shapes)
    assert plan_of(spec, scores, layout) == plan
    frame = Frame(spec, multiple, allocation.stock)
    try:
        new = moved(frame, layout, target, seed, moves)
    except AutoPruneError:
        assume(False)
    assert new != layout
    assert new == moved(frame, layout, target, seed, moves)
    made = plan_of(spec, scores, new)
    made.check(spec)
    size = spec.params_of(made.shapes)
    assert layout_of(made) == new
    assert size <= target
    within = any(h < g * spec.q_per_group for h, g in zip(layout.heads, layout.groups, strict=True))
    assert all(larger > target for larger in steps_up(frame, new, within))
    unit = "query" if within else "group"
    largest = largest_unit(spec, Allocation(head_unit=unit, stock=allocation.stock), multiple)
    assert target - size <= largest
    before, after = plan.layers[0], made.layers[0]
    assert bool(after.heads) + bool(after.channels) >= bool(before.heads) + bool(before.channels)
    assert not set(range(spec.anchored)) & set(made.dropped_layers)
    if allocation.stock:
        assert len(set(made.shapes)) == 1
        assert spec.deployability(made.shapes) == "stock"
    for layer in made.layers:
        assert len(layer.channels) % multiple == 0 or len(layer.channels) == (
            spec.layers[layer.index].channels
        )
    for index, (one, two) in enumerate(zip(rows(spec, plan), rows(spec, made), strict=True)):
        if one and two and len(one.channels) == len(two.channels):
            assert one.channels == two.channels
        heads = [(part.heads[index], part.groups[index]) for part in (layout, new)]
        if one and two and heads[0] == heads[1]:
            assert one.heads == two.heads


def rows(spec: BackboneSpec, plan: PruningPlan) -> list:
    kept = {layer.index: layer for layer in plan.layers}
    return [kept.get(index) for index in range(len(spec.layers))]


def parent(spec: BackboneSpec, stock: bool) -> tuple[Layout, int]:
    plan = allocate(spec, make_scores(spec), Allocation(stock=stock), int(spec.total_params * 0.6))
    return layout_of(plan), spec.params_of(plan.shapes)


@pytest.mark.parametrize("stock", [False, True])
def test_many_seeds_give_all_kinds_of_moves(stock: bool) -> None:
    spec = make_spec(10, 8, 2, 256, 128)
    layout, target = parent(spec, stock)
    made = [moved(Frame(spec, 1, stock), layout, target, seed) for seed in range(200)]
    layers = [len(new.shapes) - len(layout.shapes) for new in made]
    assert {-1, 0, 1} <= set(layers)
    swapped = [
        new
        for new in made
        if len(new.shapes) == len(layout.shapes)
        and [bool(h) for h in new.heads] != [bool(h) for h in layout.heads]
    ]
    assert swapped
    assert len(set(made)) > (50 if not stock else 15)
    if not stock:
        alone = [
            new
            for new in made
            if any((h > 0) != (c > 0) for h, c in zip(new.heads, new.channels, strict=True))
        ]
        assert alone
        # A shift changes two sublayers, by little or by much.
        changed = [
            int(np.abs(np.subtract(new.channels, layout.channels)).max())
            for new in made
            if new.heads == layout.heads
        ]
        assert min(changed) < 8 < 40 < max(changed)


def test_a_smaller_target_is_met_as_well() -> None:
    """Sizes in bytes are met by lowering the parameters."""
    spec = make_spec(6, 4, 1, 64, 64)
    layout, target = parent(spec, False)
    for seed in range(20):
        new = moved(Frame(spec), layout, target - 5_000, seed)
        assert target - 5_000 - spec.channel_params < spec.params_of(new.shapes) <= target - 5_000


def test_no_move_is_said_so() -> None:
    spec = make_spec(1, 1, 1, 1, 8)
    whole = Layout((1,), (1,), (1,))
    with pytest.raises(AutoPruneError, match="--refine 0"):
        moved(Frame(spec), whole, spec.total_params, 0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"heads": [4], "groups": [3], "channels": [1]}, "equally many"),
        ({"heads": [4], "groups": [0], "channels": [1]}, "equally many"),
        ({"heads": [4, 4], "groups": [4], "channels": [1]}, "same layers"),
        ({"heads": [4], "groups": [4]}, "channels"),
        ({"heads": ["x"], "groups": [4], "channels": [1]}, "cannot be read"),
    ],
)
def test_broken_layouts_are_refused(values: dict, says: str) -> None:
    with pytest.raises(AutoPruneError, match=says):
        Layout.from_dict(values)


def test_layouts_of_another_model_are_refused() -> None:
    spec = make_spec(2, 2, 2, 8)
    scores = make_scores(spec)
    good = Layout((4, 2), (2, 1), (8, 3))
    assert Layout.from_dict(good.to_dict()) == good
    assert layout_of(plan_of(spec, scores, good)) == good
    with pytest.raises(AutoPruneError, match="model has 2"):
        plan_of(spec, scores, Layout((4,), (2,), (8,)))
    with pytest.raises(AutoPruneError, match="9 channels"):
        plan_of(spec, scores, Layout((4, 2), (2, 1), (9, 3)))
    with pytest.raises(AutoPruneError, match="no scores"):
        plan_of(spec, dataclasses.replace(scores, heads=None), Layout((2, 2), (2, 1), (8, 3)))


def test_a_first_layer_that_lacks_a_sublayer_does_not_hinder_the_others() -> None:
    spec = make_spec(layers=4)
    layout = Layout((0, 4, 4, 4), (0, 4, 4, 4), (12, 12, 12, 0))
    target = spec.params_of(layout.shapes)
    found = [moved(Frame(spec), layout, target, seed) for seed in range(40)]
    gone = [frozenset(i for i, width in enumerate(new.channels) if not width) for new in found]
    assert {frozenset({1}), frozenset({2})} & set(gone)  # another MLP is dropped instead
