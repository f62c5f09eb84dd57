"""What a model and a search leave of a knob space, and a walk through what is left."""

from __future__ import annotations

from typing import Any

import pytest
from support.decoding import SPEC
from support.shapes import shape_config

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec, spec_of
from autoprune.search.candidates.narrow import Narrowed, narrow
from autoprune.search.knobs.grid import cells
from autoprune.search.knobs.space import load_space, parse_space
from autoprune.search.settings import make_settings
from autoprune.search.starts.baselines import known, starts
from autoprune.testing.toy import toy_spec

MHA = toy_spec(8, 4, 4, 48, outside=9000)


def narrowed(
    name: str, spec: BackboneSpec = SPEC, vision: bool = True, **settings: Any
) -> Narrowed:
    space = load_space(name)
    return narrow(space, make_settings({"space": name, **settings}), spec, "float32", vision)


CASES = {
    "heads with keys of their own": ("hybrid", {"spec": MHA}, {"head_unit"}),
    "a language model": ("width", {"vision": False}, {"text_weight"}),
    "fixed data": ("depth", {"data_fraction": 0.2}, {"data_fraction"}),
    "stock": (
        "hybrid",
        {"deployable": "stock"},
        {"depth_unit", "profile_slope", "profile_curve", "window"},
    ),
    "stock ratios": (
        "per_layer",
        {"deployable": "stock"},
        {"depth_unit", *(f"ratio_{i}" for i in range(1, 9))},
    ),
    "nothing": ("hybrid", {}, set()),
}


@pytest.mark.parametrize(("name", "settings", "gone"), CASES.values(), ids=CASES)
def test_knobs_without_effect_are_fixed(
    name: str, settings: dict[str, Any], gone: set[str]
) -> None:
    found = narrowed(name, **settings)
    before = set(load_space(name).distributions())
    assert before - set(found.space.distributions()) == gone
    said = " ".join(found.notes)
    assert all(knob in said for knob in gone)
    assert not any(knob in found.space.complete({}) for knob in gone if knob.startswith("ratio"))


def test_a_space_that_makes_its_own_knobs_idle_is_mended() -> None:
    text = (
        "description: odd\nknobs:\n  size: {low: 0, high: 1}\n  axis: width\n"
        "  contiguous: [true, false]\n  scope: full\n  lora_rank: [4, 8]\n"
        "  distill_weight: {low: 0, high: 1}\n  recovery: [none, sft]\n"
    )
    found = narrow(parse_space(text, "odd"), make_settings({}), SPEC, "float32", True)
    assert set(found.space.distributions()) == {"size", "recovery"}


def test_absolute_sizes_outside_the_budget_are_left_out() -> None:
    found = narrowed("paper", budgets=("70%",), min_size="45%")
    removed = found.space.knobs["backbone_removed"].values()
    most, least = 0.7 * SPEC.total_params, 0.45 * SPEC.total_params
    assert removed == (0.45, 0.6)
    for share in removed:
        assert least <= SPEC.total_params - float(share) * SPEC.backbone_params <= most
    assert found.notes[0].startswith("left out: 15%, 30% of the backbone")
    with pytest.raises(AutoPruneError, match="no size of space paper can be had"):
        narrowed("paper", budgets=("32%",), min_size="31%")
    with pytest.raises(AutoPruneError, match="does not count"):
        narrowed("paper", objective="bytes")


def test_the_studys_grid_is_walked_whole() -> None:
    space = load_space("paper")
    found = [space.complete(cell) for cell in cells(space)]
    assert len(found) == 2 * 4 * (1 + 8 * 3)
    assert make_settings({"space": "paper", "sampler": "grid"}).trials == len(found)
    seven = make_settings({"space": "paper", "sampler": "grid", "trials": 7})
    assert (seven.trials, seven.refine) == (7, 0.0)
    trained = {
        (k["axis"], k["backbone_removed"], k["recovery"], k["data_fraction"])
        for k in found
        if k["recovery"] != "none"
    }
    assert len(trained) == 2 * 4 * 8 * 3
    assert {k["scope"] for k in found} == {"lora"}
    assert all(k["window"] and k["temperature"] == 0 and not k["contiguous"] for k in found)


def test_a_range_cannot_be_walked() -> None:
    with pytest.raises(AutoPruneError, match="knob 'depth_share' of space quick is the range 0"):
        make_settings({"space": "quick", "sampler": "grid"})


def test_a_walk_of_a_longer_list_than_anyone_waits_for_is_refused() -> None:
    ratios = "".join(f"  ratio_{i}: [0.1, 0.2, 0.4, 0.8]\n" for i in range(1, 11))
    with pytest.raises(AutoPruneError, match="more than 100,000"):
        cells(parse_space(f"description: long\nknobs:\n{ratios}", "long"))


def test_every_knob_of_the_recovery_is_idle_without_one() -> None:
    text = "description: a\nknobs:\n  recovery: [none, sft]\n  decay: [cosine, linear]\n"
    found = cells(parse_space(text, "a"))
    assert [c["recovery"] for c in found] == ["none", "sft", "sft"]


def test_known_configurations_can_be_left_out() -> None:
    space = load_space("hybrid")

    def names(**settings: Any) -> list[str]:
        return [b.name for b in known(space, lambda size: 0.5, make_settings(settings))]

    assert names()[-2:] == ["start-keep-heads", "start-keep-heads-small"]
    assert len(names()) == 6
    assert names(warm_baselines=False) == []
    assert names(trials=6) == ["paper-depth"]
    assert not any(name.startswith("start-") for name in names(warm_start=("a",)))
    assert starts(load_space("depth"), 2) == []


def test_an_option_that_fixes_the_data_is_what_the_knob_says_and_leaves_the_baselines() -> None:
    settings = make_settings({"data_fraction": 0.2})
    found = narrowed("hybrid", data_fraction=0.2).space
    assert found.complete({})["data_fraction"] == 0.2
    free = known(narrowed("hybrid").space, lambda size: 0.4, make_settings({}))
    fixed = known(found, lambda size: 0.4, settings)
    assert [b.name for b in fixed] == [b.name for b in free]
    assert all(found.complete(b.knobs)["data_fraction"] == 0.2 for b in fixed)


def test_real_shapes_narrow_too() -> None:
    own_keys = spec_of(shape_config("llava-1.5-7b"))
    assert "head_unit" not in narrowed("hybrid", own_keys).space.distributions()
