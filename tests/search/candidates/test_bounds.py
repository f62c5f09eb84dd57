"""Budgets of memory and latency: every candidate keeps to all of them, in every space."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from support.families import CASES as FAMILIES
from support.shapes import shape_config
from support.user_data import llava

from autoprune.cli.live import describe_trial
from autoprune.cost.devices import Device
from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec, spec_of
from autoprune.pipeline.prepare import inspect
from autoprune.pruning.layout import layout_of
from autoprune.search.candidates.costs import said_of, shares_of
from autoprune.search.candidates.decode import DecodeContext, asked_removed, decode
from autoprune.search.candidates.neighbours import neighbours
from autoprune.search.candidates.sizes import read_sizes
from autoprune.search.knobs.space import list_spaces, load_space, with_precisions
from autoprune.search.problem import narrow_for
from autoprune.search.settings import make_settings
from autoprune.testing.toy import toy_importance
from autoprune.tracking.records.trial import TrialRecord
from autoprune.zoo import build_config

optuna.logging.set_verbosity(optuna.logging.WARNING)

DRAWS = 12


@lru_cache(maxsize=1)
def embedded() -> tuple[Any, BackboneSpec]:
    config = build_config()
    return config, spec_of(config)


def context_of(*budgets: str, config: Any = None, spec: Any = None, **values: Any) -> DecodeContext:
    """What a search of these settings decodes with, on toy importance."""
    if config is None:
        config, spec = embedded()
    settings = make_settings({"budgets": budgets, "device": "raspberry-pi-5-4gb", **values})
    sizes = read_sizes(settings, spec, "float32", config)
    return DecodeContext(
        spec=spec,
        importance=toy_importance(spec),
        min_params=sizes.smallest,
        max_params=sizes.budget.params,
        train_samples=100,
        max_recovery_samples=100,
        stock=settings.deployable == "stock",
        spans=sizes.spans,
        bounds=sizes.bounds,
        in_memory=sizes.in_memory,
    )


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "memory": (("6MiB-memory",), {}),
    "latency": (("200us-latency", "80%"), {}),
    "all": (("60%", "6MiB-memory", "180us-latency"), {}),
    "bits": (("5MiB-memory", "60%"), {"quantize": ("none", "int8", "int4")}),
    "bits and time": (("150us-latency",), {"quantize": ("int8", "int4")}),
    "memory as the size": (("7MiB-memory", "190us-latency"), {"objective": "memory"}),
    "stored bytes beside memory": (("3MiB-bytes", "7MiB-memory"), {"objective": "memory"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("space", [n for n in list_spaces() if n != "paper"])
def test_no_candidate_exceeds_any_budget(space: str, case: str) -> None:
    budgets, values = CASES[case]
    if space == "stock":
        values = {**values, "deployable": "stock"}
    context = context_of(*budgets, **values)
    bounds = context.bounds
    assert bounds is not None
    assert {b.unit for b in bounds.limits} >= {"memory"}
    precisions = make_settings({"budgets": budgets, "device": "l4", **values}).precisions
    read = with_precisions(load_space(space), precisions)
    study = optuna.create_study(sampler=RandomSampler(seed=len(space) + len(case)))
    closest = 0.0
    for turn in range(DRAWS):
        drawn = study.ask(fixed_distributions=read.distributions()).params
        if turn % 2:
            drawn["size"] = 1.0
        knobs = read.complete(drawn)
        found = decode(knobs, context)
        load = bounds.load(found.plan, found.precision)
        assert load <= 1, f"{load} with {drawn}"
        assert context.spec.params_of(found.plan.shapes) <= context.max_params
        closest = max(closest, load)
    # The bounds are used, not only kept.
    assert closest > 0.6


def test_neighbours_keep_to_the_bounds() -> None:
    context = context_of("60%", "6MiB-memory", "180us-latency")
    bounds = context.bounds
    assert bounds is not None
    knobs = load_space("hybrid").complete({"size": 1.0})
    start = layout_of(decode(knobs, context).plan)
    propose = neighbours(start, "float32", context)
    moved = {propose(start, seed, 2) for seed in range(12)}
    assert len(moved) > 3
    assert all(bounds.load(layout, "float32") <= 1 for layout in moved)


def test_bounds_that_do_not_bind_change_nothing() -> None:
    free = context_of("60%")
    wide = context_of("60%", "1GiB-memory", "10s-latency")
    none = replace(free, bounds=None)
    for size in (0.0, 0.4, 1.0):
        knobs = load_space("hybrid").complete({"size": size, "axis": "hybrid"})
        plans = {decode(knobs, context).plan.identity for context in (free, wide, none)}
        assert len(plans) == 1


def test_a_device_bounds_the_memory() -> None:
    config = shape_config("llava-1.5-7b")
    spec = spec_of(config)
    settings = make_settings({"budgets": ("90%",), "device": "jetson-orin-nano-8gb"})
    sizes = read_sizes(settings, spec, "bfloat16", config)
    assert sizes.bounds is not None
    [bound] = sizes.bounds.limits
    assert bound.implied
    device: Device | None = sizes.bounds.device
    assert device is not None
    assert sizes.budget.memory == bound.most == device.memory
    assert sizes.budget.params < 0.5 * spec.total_params
    typed = make_settings({"budgets": ("90%", "12GiB-memory"), "device": "jetson-orin-nano-8gb"})
    held = read_sizes(typed, spec, "bfloat16", config)
    assert held.budget.memory == 12 * 2**30


def test_a_device_too_small_for_the_model_is_said_with_its_mend() -> None:
    config = shape_config("llava-1.5-7b")
    settings = make_settings({"device": "iphone-15-pro", "images_per_prompt": 6})
    config.text_config.max_position_embeddings = 1 << 17
    settings = settings.model_copy(update={"context": 100_000})
    mend = r"memory of iphone-15-pro cannot be met.*name a --device with more, or a smaller prompt"
    with pytest.raises(AutoPruneError, match=mend):
        read_sizes(settings, spec_of(config), "bfloat16", config)


def test_shares_are_of_the_dense_model_as_it_is_worked_with() -> None:
    bounds = context_of("60%", "6MiB-memory").bounds
    assert bounds is not None
    plan = decode(
        load_space("hybrid").complete({"size": 1.0}), context_of("60%", "6MiB-memory")
    ).plan
    dense = shares_of(bounds, None, "float32")
    assert (dense["memory_fraction"], dense["latency_fraction"]) == (1.0, 1.0)
    small = shares_of(bounds, plan, "int8")
    assert small["memory"] == bounds.memory(plan, "int8").total
    assert small["memory_fraction"] == small["memory"] / dense["memory"]
    assert small["latency_fraction"] == small["latency"] / dense["latency"]
    assert small["latency_kind"] == "modelled"


def test_the_tightest_of_several_is_the_budget() -> None:
    config, spec = embedded()
    budgets = ("60%", "6MiB-memory", "5MiB-memory", "90us-latency", "180us-latency")
    found = read_sizes(
        make_settings({"budgets": budgets, "device": "raspberry-pi-5-4gb"}), spec, "float32", config
    )
    assert found.budget.memory == 5 * 2**20
    assert found.budget.latency == pytest.approx(90e-6)


def test_memory_is_sampled_from_as_deep_as_sizes_are() -> None:
    context = context_of("7MiB-memory", objective="memory")
    hybrid = load_space("hybrid")
    small, large = (
        context.spec.params_of(decode(hybrid.complete({"size": size}), context).plan.shapes)
        for size in (0.0, 1.0)
    )
    assert small / large == pytest.approx(0.6, abs=0.05)


BAD = {
    "memory too small": (("3MiB-memory",), {}, "'3MiB-memory' cannot be met.*KiB too much"),
    "only one of two": (("60%", "1us-latency"), {}, "^budget '1us-latency' cannot be met"),
    "both": (("1MiB-memory", "1us-latency"), {}, "'1MiB-memory' cannot.*'1us-latency' cannot"),
    "not below": (("60MiB-memory",), {}, "not smaller than the dense model, which takes 1"),
    "no device": (("9ms-latency",), {"device": None}, "needs a --device"),
    "unknown device": (("60%",), {"device": "l5"}, "--device: unknown device 'l5'"),
    "not measured": (("60%",), {"device": "here"}, "run 'autoprune profile'"),
    "scale": (("9m-latency", "60%"), {}, "unknown scale 'm': use us, ms, s"),
    "negative": (("-9ms-latency",), {}, "not above zero"),
    "floor": (("60%",), {"min_size": "1MiB-memory"}, "no size that --objective params counts"),
    "prompt": (("60%",), {"context": 10**6}, "beyond the 512 positions"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(case: str) -> None:
    budgets, values, said = BAD[case]
    with pytest.raises(AutoPruneError, match=said) as raised:
        context_of(*budgets, **values)
    assert "\n" not in str(raised.value)


def test_a_users_images_say_how_large_images_are(tmp_path: Path) -> None:
    data = llava(tmp_path)
    config = FAMILIES["qwen2_vl-qwen2_vl_text"].config(max_position_embeddings=1 << 16)
    spec = spec_of(config)
    asked = {"data": [str(data)], "images": str(tmp_path / "images")}
    # Pictures of 40 x 40 pixels, patches of 4, four a token; the usual ones are of 448 x 448.
    for values, tokens, said in (
        (asked, 25, "(40 x 40 pixels, the middle size of the data's)"),
        ({**asked, "image_tokens": 9}, 9, "1 image of 9 tokens"),
        ({}, 3136, "(448 x 448 pixels)"),
    ):
        settings = make_settings({"budgets": ("80%",), **values})
        bounds = read_sizes(settings, spec, "float32", config).bounds
        assert bounds is not None
        assert bounds.prompt.image_tokens == tokens
        assert bounds.prompt.said.endswith(said)
        kept = said_of(bounds)
        assert kept is not None
        assert kept.said == bounds.prompt.said


# budgets, a share and an axis of the study's grid; whether a bound has more removed than that
CELLS: list[tuple[tuple[str, ...], float, str, bool]] = [
    (("80%", "8MiB-memory"), 0.6, "depth", True),
    (("80%", "8MiB-memory"), 0.6, "width", False),
    # Of ten equal layers none makes 45 %: that is no bound's doing.
    (("80%", "14MiB-memory"), 0.45, "depth", False),
    (("80%",), 0.6, "depth", False),
]


@pytest.mark.parametrize(("budgets", "share", "axis", "further"), CELLS)
def test_a_cell_of_a_grid_that_is_cut_further_is_told(
    budgets: tuple[str, ...], share: float, axis: str, further: bool
) -> None:
    context = context_of(*budgets)
    knobs = load_space("paper").complete({"backbone_removed": share, "axis": axis})
    plan = decode(knobs, context).plan
    removed = 1 - (context.spec.params_of(plan.shapes) - context.spec.outside_params) / (
        context.spec.backbone_params
    )
    asked = asked_removed(knobs, context, plan)
    assert asked == (share if further else None)
    if further:
        assert removed > share + 0.05
        record = TrialRecord(
            trial=0, state="running", backbone_removed=removed, asked_removed=asked
        )
        assert "70.0%, than the 60.0% asked for" in describe_trial(record)
    # The sizes that are drawn between bounds are no share that anybody asked for.
    drawn = load_space("hybrid").complete({"size": 1.0})
    assert asked_removed(drawn, context, decode(drawn, context).plan) is None


def test_a_walk_says_before_it_starts_which_sizes_give_way() -> None:
    """By the model's own configuration: cells above a bound are left out, not tried in vain."""
    budgets = ("80%", "8MiB-memory")
    values = {"space": "paper", "sampler": "grid", "device": "l4", "budgets": budgets}
    settings, space = make_settings(values), load_space("paper")
    found = narrow_for(settings, space, inspect("embedded"))
    assert found.space.knobs["backbone_removed"].values() == (0.6,)
    left, further = found.notes[:2]
    assert left.startswith("left out: 15%, 30%, 45% of the backbone removed")
    assert further.startswith("cut further: what breaks 8MiB-memory at the size that its knobs")
    assert "as evenly cut models do at 60% by depth; a trial" in further
    alone = make_settings({**values, "budgets": ("80%",)})
    assert not [n for n in narrow_for(alone, space, inspect("embedded")).notes if "further" in n]


def test_an_axis_that_cannot_keep_a_bound_is_said_to() -> None:
    # Where a layer takes 1 ms beside its weights, ten thin layers are still 10 ms.
    context = context_of("60%", "8ms-latency", device="raspberry-pi-5-4gb")
    assert context.bounds is not None
    assert context.bounds.device is not None
    slow = replace(context.bounds, device=replace(context.bounds.device, layer_seconds=1e-3))
    context = replace(context, bounds=slow)
    space = load_space("hybrid")
    found = decode(space.complete({"size": 0.5, "axis": "depth"}), context)
    assert slow.load(found.plan, found.precision) <= 1
    with pytest.raises(AutoPruneError, match=r"axis width cannot keep to 8ms-latency \(its small"):
        decode(space.complete({"size": 0.5, "axis": "width"}), context)


@pytest.mark.parametrize(
    ("budget", "values", "left"),
    [
        ("500us-latency", {}, ("width", "depth", "hybrid")),
        ("65us-latency", {}, ("width", "hybrid")),
        ("30us-latency", {}, ("hybrid",)),
        ("4MiB-memory", {}, ("hybrid",)),
        ("4MiB-memory", {"quantize": ("none", "int8")}, ("width", "hybrid")),
    ],
)
def test_axes_that_cannot_keep_a_bound_are_not_sampled(
    budget: str, values: dict[str, Any], left: tuple[str, ...]
) -> None:
    settings = make_settings({"budgets": (budget,), "device": "raspberry-pi-5-4gb", **values})
    space = load_space("hybrid")
    if "quantize" in values:
        space = with_precisions(space, settings.precisions)
    every = space.knobs["axis"].values()
    found = narrow_for(settings, space, inspect("embedded"))
    assert set(found.space.knobs["axis"].values()) == set(left)
    said = [note for note in found.notes if note.startswith("left out: axis")]
    assert len(said) == len(every) - len(left)
    assert all(f"cannot keep to {budget} (its smallest plan takes " in note for note in said)


def test_a_space_without_an_axis_that_keeps_a_bound_is_refused() -> None:
    settings = make_settings({"budgets": ("65us-latency",), "device": "raspberry-pi-5-4gb"})
    with pytest.raises(AutoPruneError, match="space depth: axis depth cannot keep to 65us") as said:
        narrow_for(settings, load_space("depth"), inspect("embedded"))
    assert "\n" not in str(said.value)
