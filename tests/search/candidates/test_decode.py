"""Knobs to candidates: exact in size, inside the budget, whatever the knobs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import CONTEXT, GROUPS, LARGEST_UNIT, LAYERS, SPEC, TOTAL
from support.shapes import shape_config

from autoprune.cost.bytes import layer_bytes, linears_of, stored_bytes
from autoprune.errors import AutoPruneError
from autoprune.models.families import Heads
from autoprune.models.precision import PRECISIONS
from autoprune.models.shape import spec_of
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import dense_plan
from autoprune.pruning.scores import scores
from autoprune.search.candidates.decode import DecodeContext, decode
from autoprune.search.candidates.sizing import ByteSizing, multiple_of
from autoprune.search.knobs.space import list_spaces, load_space, with_precisions
from autoprune.search.knobs.table import KNOBS, RATIOS, Value
from autoprune.search.starts.baselines import baselines
from autoprune.testing.toy import toy_importance


def any_knobs() -> st.SearchStrategy[dict[str, Value]]:
    def values(name: str) -> st.SearchStrategy[Value]:
        knob = KNOBS[name]
        if knob.names:
            return st.sampled_from(knob.names)
        low, high = max(knob.low, 0.01 if name == "learning_rate_scale" else -1), min(knob.high, 4)
        if knob.integer:
            return st.integers(int(max(low, 0)), int(high))
        return st.floats(low, high)

    def runs(count: int) -> st.SearchStrategy[dict[str, Value]]:
        return st.fixed_dictionaries({name: values(name) for name in RATIOS[:count]})

    usual = [n for n, k in KNOBS.items() if n != "lora_rank" and k.default is not None]
    ratios = st.one_of(st.just({}), st.sampled_from([2, 4, 16]).flatmap(runs))
    fixed = st.fixed_dictionaries({name: values(name) for name in usual})
    return st.builds(lambda a, b: {**a, **b}, fixed, ratios)


def spans(share: float) -> dict[str, tuple[int, int]]:
    """From what every axis reaches up to a share of what is between it and the dense model."""
    found: dict[str, tuple[int, int]] = {}
    for name in PRECISIONS:
        dense = stored_bytes(SPEC, None, name)
        sizing = ByteSizing(SPEC, dense, dense, name, TOTAL, multiple_of(name))
        low = sizing.least(scores(CONTEXT.importance), Allocation(axis="width"))
        found[name] = (low, low + round(share * (dense - low)))
    return found


@settings(max_examples=150, deadline=None)
@given(any_knobs(), st.sampled_from([0.3, 0.7, 1.0]), st.sampled_from([0.6, 1.0]))
def test_any_knobs_meet_their_bytes(drawn: dict[str, Value], share: float, params: float) -> None:
    knobs = {**drawn, "lora_rank": 8}
    precision = str(knobs["precision"])
    context = replace(CONTEXT, spans=spans(share), max_params=round(params * TOTAL))
    candidate = decode(knobs, context)
    assert candidate.precision == precision
    low, high = context.spans[precision]
    size = stored_bytes(SPEC, candidate.plan, precision)
    assert size <= high
    kept = SPEC.params_of(candidate.plan.shapes)
    assert kept <= context.max_params
    target = round(low + float(knobs["size"]) * (high - low))
    multiple = multiple_of(precision)
    unit = ByteSizing(SPEC, target, high, precision, TOTAL, multiple).unit(Allocation())
    if knobs["axis"] == "depth":
        unit = layer_bytes(SPEC, SPEC.layers[0], precision)
    elif knobs["axis"] == "hybrid":
        # With a layer go its norms and scales, too, which weigh more than as many weights.
        each = {"int8": 1.0, "int4": 9 / 16}.get(precision, PRECISIONS[precision].item_bytes)
        weights = sum(rows * columns for rows, columns in linears_of(SPEC, SPEC.layers[0]))
        unit += layer_bytes(SPEC, SPEC.layers[0], precision) - round(each * weights)
    # Where the budget in parameters binds, the bytes it leaves are what there is.
    largest = max(SPEC.attention_group_params, multiple * SPEC.channel_params)
    if knobs["axis"] == "depth":
        largest = SPEC.layer_params[0]
    assert abs(target - size) < unit or kept > context.max_params - largest
    assert decode(knobs, context) == candidate


def test_a_candidate_keeps_the_dense_models_precision_where_it_is_not_quantised() -> None:
    knobs = load_space("hybrid").complete({})
    assert decode(knobs, CONTEXT).precision == "float32"
    half = replace(CONTEXT, precision="bfloat16")
    assert decode(knobs, half).precision == "bfloat16"
    most = stored_bytes(SPEC, None, "int8-bf16")
    half = replace(half, max_params=TOTAL, spans={"int8-bf16": (most // 2, most // 2)})
    candidate = decode({**knobs, "precision": "int8"}, half)
    assert candidate.precision == "int8-bf16"
    assert stored_bytes(SPEC, candidate.plan, "int8-bf16") <= most // 2


def test_baselines_are_quantised_the_least() -> None:
    space = with_precisions(load_space("hybrid"), ("int8", "int4"))
    assert {b.knobs["precision"] for b in baselines(space, lambda size: 0.5, 10)} == {"int8"}
    fixed = with_precisions(load_space("hybrid"), ("int4",))
    found = baselines(fixed, lambda size: 0.5, 10)
    assert len(found) == 6
    assert fixed.complete(found[0].knobs)["precision"] == "int4"


def test_a_precision_that_is_small_enough_alone_prunes_nothing() -> None:
    dense = stored_bytes(SPEC, None, "int8")
    context = replace(CONTEXT, max_params=TOTAL, spans={"int8": (dense // 2, dense)})
    knobs = {**load_space("hybrid").complete({}), "size": 1.0, "precision": "int8"}
    assert decode(knobs, context).plan == dense_plan(SPEC)


@settings(max_examples=200, deadline=None)
@given(any_knobs())
def test_any_knobs_meet_their_size_exactly(drawn: dict[str, Value]) -> None:
    knobs = {**drawn, "lora_rank": 8, "precision": "float32"}
    candidate = decode(knobs, CONTEXT)
    size = SPEC.params_of(candidate.plan.shapes)
    assert size <= CONTEXT.max_params
    span = CONTEXT.max_params - CONTEXT.min_params
    target = round(CONTEXT.min_params + float(knobs["size"]) * span)
    unit = SPEC.layer_params[0] if knobs["axis"] == "depth" else LARGEST_UNIT
    assert abs(target - size) < unit
    assert decode(knobs, CONTEXT) == candidate


@settings(max_examples=200, deadline=None)
@given(any_knobs(), st.sampled_from(["any", "divisor", "dense"]), st.sampled_from([1, 8]))
def test_any_knobs_make_a_stock_candidate(
    drawn: dict[str, Value], rule: Heads, multiple: int
) -> None:
    """Deployability holds by construction, and the size within one uniform step."""
    spec = replace(SPEC, stock_heads=rule)
    context = replace(CONTEXT, spec=spec, stock=True, multiple=multiple)
    knobs = {**drawn, "lora_rank": 8, "precision": "float32"}
    plan = decode(knobs, context).plan
    assert spec.deployability(plan.shapes) == "stock"
    size = spec.params_of(plan.shapes)
    assert size <= context.max_params
    target = round(
        context.min_params + float(knobs["size"]) * (context.max_params - context.min_params)
    )
    # A step of all layers: a KV group or a head in each, or up to the next count that loads.
    step = max(LAYERS * SPEC.attention_group_params * GROUPS // 2, SPEC.layer_params[0])
    assert abs(target - size) < max(step, LAYERS * multiple * SPEC.channel_params)


def test_a_stock_candidate_of_a_real_size_meets_its_bytes() -> None:
    """Within a layer, though the heads of all layers come in powers of two: many times as much."""
    spec = spec_of(shape_config("llava-1.5-7b"))
    dense = stored_bytes(spec, None, "int4")
    low, high = int(0.4 * dense), int(0.9 * dense)
    context = replace(
        CONTEXT,
        spec=spec,
        importance=toy_importance(spec),
        stock=True,
        multiple=64,
        max_params=spec.total_params,
        spans={"int4": (low, high)},
    )
    usual = {**load_space("stock").complete({}), "precision": "int4"}
    for axis, share in (("depth", 0.5), ("hybrid", 0.2), ("hybrid", 0.7)):
        for size in np.linspace(0.1, 1, 7):
            drawn = {"axis": axis, "depth_share": share, "size": float(size)}
            plan = decode({**usual, **drawn}, context).plan
            short = low + float(size) * (high - low) - stored_bytes(spec, plan, "int4")
            assert -1 < short < layer_bytes(spec, spec.layers[0], "int4"), drawn


@pytest.mark.parametrize("name", list_spaces())
def test_every_space_decodes_its_defaults_and_baselines(name: str) -> None:
    space = load_space(name)
    decode(space.complete({}), CONTEXT)
    for baseline in baselines(space, lambda size: 0.5, 10):
        assert decode(space.complete(baseline.knobs), CONTEXT).plan.layers


def test_the_default_space_holds_every_baseline() -> None:
    names = [b.name for b in baselines(load_space("hybrid"), lambda size: 0.5, 10)]
    assert names[:3] == ["paper-depth", "paper-width", "depth-then-width-half"]
    assert len(names) == 6
    assert len(baselines(load_space("hybrid"), lambda size: 0.5, 2)) == 2


def test_baselines_take_the_studys_data_by_the_share_removed() -> None:
    space = load_space("hybrid")
    light, heavy = (baselines(space, lambda size, r=r: r, 1)[0] for r in (0.45, 0.55))
    assert light.knobs["data_fraction"] == 0.05
    assert heavy.knobs["data_fraction"] == 1.0


def test_recipe_follows_its_knobs() -> None:
    knobs = {**load_space("hybrid").complete({}), "recovery": "sft+reverse_kl+hidden"}
    recipe = decode({**knobs, "distill_weight": 0.6}, CONTEXT).recipe
    assert recipe.weights == pytest.approx({"sft": 0.4, "reverse_kl": 0.3, "hidden": 0.3})
    assert decode({**knobs, "recovery": "none"}, CONTEXT).recipe.steps == 0
    # 50 passes cannot cover more than half of 100 samples, and the record says so.
    assert decode({**knobs, "data_fraction": 1.0}, CONTEXT).recipe.data_fraction == 0.5


def test_a_budget_out_of_an_axis_reach_is_said() -> None:
    tight = DecodeContext(**{**CONTEXT.__dict__, "min_params": 9100, "max_params": 9200})
    with pytest.raises(AutoPruneError, match="axis width reaches"):
        decode({**load_space("width").complete({}), "size": 1.0}, tight)
