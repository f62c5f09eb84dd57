"""Plans: exact round trips, clear refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.errors import AutoPruneError
from autoprune.pruning.plan import (
    LayerPlan,
    PruningPlan,
    format_ranges,
    heads_of_groups,
    parse_ranges,
)

kept = st.sets(st.integers(0, 60)).map(lambda chosen: tuple(sorted(chosen)))


@st.composite
def plans(draw: st.DrawFn) -> PruningPlan:
    q_per_group = draw(st.integers(1, 4))
    layers = []
    for index in sorted(draw(st.sets(st.integers(0, 11), min_size=1))):
        heads = heads_of_groups(draw(st.sets(st.integers(0, 7))), q_per_group)
        channels = draw(kept)
        layers.append(LayerPlan(index, heads, channels if heads else channels or (0,)))
    return PruningPlan("llama", "0" * 16, 12, q_per_group, tuple(layers))


@given(kept)
def test_ranges_round_trip(indices: tuple[int, ...]) -> None:
    assert parse_ranges(format_ranges(indices)) == indices


@settings(max_examples=50)
@given(plans())
def test_json_round_trip_is_exact(plan: PruningPlan) -> None:
    again = PruningPlan.from_json(plan.to_json())
    assert again == plan
    assert again.identity == plan.identity
    assert again.shapes == plan.shapes


def test_ranges_are_compact() -> None:
    assert format_ranges((0, 1, 2, 6, 8, 9)) == "0-2,6,8-9"
    assert format_ranges(()) == ""
    assert parse_ranges(" 0-2 , 6") == (0, 1, 2, 6)


@pytest.mark.parametrize("text", ["3-1", "0-3,2", "a", "1,,2", "-1", "1-2-3", 5, None])
def test_bad_ranges_are_refused(text: object) -> None:
    with pytest.raises(AutoPruneError):
        parse_ranges(text)  # type: ignore[arg-type]


def good() -> dict:
    return {
        "model_type": "llama",
        "dense": "abc",
        "num_layers": 3,
        "q_per_group": 2,
        "layers": [
            {"index": 0, "heads": "0-3", "channels": "0-9"},
            {"index": 2, "heads": "", "channels": "1,4"},
        ],
    }


def test_shapes_and_dropped_layers() -> None:
    plan = PruningPlan.from_dict(good())
    assert [(s.heads, s.kv_heads, s.channels) for s in plan.shapes] == [(4, 2, 10), (0, 0, 2)]
    assert plan.dropped_layers == (1,)
    assert plan.kv_heads(plan.layers[0]) == (0, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(extra=1), "unknown key 'extra'"),
        (lambda d: d.pop("dense"), "lacks 'dense'"),
        (lambda d: d.update(num_layers=2), "beyond the dense model's 2"),
        (lambda d: d.update(num_layers="3"), "whole number"),
        (lambda d: d.update(layers=[]), "keeps no layer"),
        (lambda d: d.update(layers={}), "must be a list"),
        (lambda d: d["layers"].reverse(), "ascending"),
        (lambda d: d["layers"][0].update(heads="0-2"), "equally many"),
        (lambda d: d["layers"][1].update(channels=""), "leave the layer out"),
        (lambda d: d["layers"][1].update(head="0"), "unknown key 'head'"),
        (lambda d: d["layers"][1].update(heads=[0, 1]), "index ranges"),
        (lambda d: d.update(q_per_group=0), "at least 1"),
        (lambda d: d.update(model_type=3), "must be text"),
    ],
)
def test_bad_plans_are_refused(change, says: str) -> None:
    data = json.loads(json.dumps(good()))
    change(data)
    with pytest.raises(AutoPruneError, match=says):
        PruningPlan.from_dict(data)


def test_no_json_is_refused() -> None:
    with pytest.raises(AutoPruneError, match="no JSON"):
        PruningPlan.from_json("{")
