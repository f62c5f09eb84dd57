"""The contract of every family, as one table: what holds for each of ``CASES``.

Adding a family is one row in ``models/families.py`` and one line in ``support/families.py``;
everything here then runs on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import (
    CASES,
    CHANNELS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    IMAGE,
    LAYERS,
    PAD,
    VIDEO,
    Case,
)
from support.families import build_model as build
from support.oracle import Kept, logits, masked, plan_of

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import from_arrays, state_arrays
from autoprune.models.checkpoint import records_shapes
from autoprune.models.families import (
    _GATED,
    _PROJECTIONS,
    FAMILIES,
    WRAPPERS,
    Family,
    Wrapper,
    anchored_layers,
    head_rule,
)
from autoprune.models.loading import quiet
from autoprune.models.shape import model_class, spec_of, takes_heads
from autoprune.models.trace import check_row
from autoprune.pruning.surgery import prune, pruned_config

ALL_HEADS, ALL_CHANNELS = tuple(range(HEADS)), tuple(range(CHANNELS))
PLANS: dict[str, Kept] = {
    "channels": {i: (ALL_HEADS, tuple(range(i, CHANNELS, 2))) for i in range(LAYERS)},
    "kv-groups": {i: ((2, 3) if i % 2 else (0, 1), ALL_CHANNELS) for i in range(LAYERS)},
    "q-heads-in-groups": dict.fromkeys(range(LAYERS), ((0, 3), ALL_CHANNELS)),
    "layers": dict.fromkeys((0, 1, 3), (ALL_HEADS, ALL_CHANNELS)),
    "attention-sublayers": {i: (ALL_HEADS if i % 2 else (), ALL_CHANNELS) for i in range(LAYERS)},
    "mlp-sublayers": {i: (ALL_HEADS, () if i % 2 else ALL_CHANNELS) for i in range(LAYERS)},
    "mixed": {0: ((), (0, 1, 23)), 1: ((0, 1), ALL_CHANNELS), 3: (ALL_HEADS, (7,))},
    "uniform": {i: ((i % 2, 2), tuple(range(i, i + 17))) for i in (0, 1, 3)},
}
MIXED = PLANS["mixed"]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("gqa", [True, False], ids=["gqa", "mha"])
@pytest.mark.parametrize("name", CASES, ids=str)
def test_pruned_equals_masked_dense(name: str, gqa: bool, attn: str) -> None:
    case = CASES[name]
    # Stock eager attention makes NaN of padding in fp64 (a mask of the smallest fp64 in fp32).
    inputs = case.inputs(padded=attn == "sdpa")
    model = build(case.config(gqa=gqa), attn=attn)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        model = model.to(dtype)
        arrays, spec, dense = state_arrays(model), spec_of(model), logits(model, inputs)
        for what, kept in PLANS.items():
            plan = plan_of(model, kept)
            pruned = prune(model.config, arrays, plan, spec=spec)
            assert pruned.get_decoder().config._attn_implementation == attn
            with masked(model, plan):
                reference = logits(model, inputs)
            difference = (logits(pruned, inputs) - reference).abs().max()
            assert difference <= bound * reference.abs().max(), what
            # Negative control: what was cut off mattered.
            assert (dense - reference).abs().max() > 0.1, what
            # The whole model, counted in closed form and on the model.
            counted = sum(parameter.numel() for parameter in pruned.parameters())
            assert counted == spec.params_of(plan.shapes), what
            assert spec_of(pruned).total_params == counted, what


@pytest.mark.parametrize("name", CASES, ids=str)
def test_other_units_of_the_same_counts_differ(name: str) -> None:
    """Negative control: a plan is about which units, not only how many."""
    case = CASES[name]
    model = build(case.config())
    arrays, inputs = state_arrays(model), case.inputs()
    one, two = (
        plan_of(model, dict.fromkeys(range(LAYERS), (heads, ALL_CHANNELS)))
        for heads in ((0, 1), (2, 3))
    )
    with masked(model, one):
        reference = logits(model, inputs)
    other = logits(prune(model.config, arrays, two), inputs)
    assert (other - reference).abs().max() > 0.1


@pytest.mark.parametrize("name", CASES, ids=str)
def test_dropped_layer_equals_identity_layer_exactly(name: str) -> None:
    case = CASES[name]
    model = build(case.config())
    plan = plan_of(model, PLANS["layers"])
    pruned = prune(model.config, state_arrays(model), plan)
    hooks = [
        model.get_decoder().layers[index].register_forward_hook(lambda _, args, out: args[0])
        for index in plan.dropped_layers
    ]
    reference = logits(model, case.inputs())
    for hook in hooks:
        hook.remove()
    assert torch.equal(logits(pruned, case.inputs()), reference)


@pytest.mark.parametrize("name", CASES, ids=str)
def test_generate_with_cache_equals_without(name: str) -> None:
    case = CASES[name]
    model = build(case.config(), double=True)
    pruned = prune(model.config, state_arrays(model), plan_of(model, MIXED))
    inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in case.inputs().items()
    }
    how = {
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "do_sample": False,
        "suppress_tokens": [PAD, IMAGE, VIDEO],
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    cached = pruned.generate(**inputs, **how)
    afresh = pruned.generate(**inputs, **how, use_cache=False)
    assert torch.equal(cached.sequences, afresh.sequences)
    steps, expected = torch.stack(cached.logits), torch.stack(afresh.logits)
    assert (steps - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert len(steps) == 6


@pytest.mark.parametrize("name", CASES, ids=str)
def test_bfloat16_round_trip_is_exact(name: str) -> None:
    model = build(CASES[name].config()).to(torch.bfloat16)
    inputs = CASES[name].inputs()
    same = from_arrays(model.config, state_arrays(model))
    assert next(same.parameters()).dtype == torch.bfloat16
    assert torch.equal(logits(same, inputs), logits(model, inputs))


@pytest.mark.parametrize("name", CASES, ids=str)
def test_head_rule_is_what_the_stock_class_does(name: str, tmp_path: Path) -> None:
    """Uniform head counts that the row allows load with the stock class; others do not."""
    case = CASES[name]
    for gqa, heads in ((False, (0, 2, 3)), (False, (1, 2)), (True, (1, 3))):
        model = build(case.config(gqa=gqa))
        plan = plan_of(model, {i: (heads, tuple(range(i, i + 17))) for i in (0, 1, 3)})
        takes = takes_heads(head_rule(model.config), len(heads), HEADS, HIDDEN)
        pruned = prune(model.config, state_arrays(model), plan)
        assert records_shapes(pruned.config) is not takes
        folder = tmp_path / f"{len(heads)}-{gqa}"
        if takes:
            inputs = case.inputs()
            with quiet():
                pruned.save_pretrained(folder)
                again, info = model_class(model.config).from_pretrained(
                    folder, output_loading_info=True
                )
            assert not any(info.values())
            assert torch.equal(logits(again.eval(), inputs), logits(pruned, inputs))
        else:
            with pytest.raises(Exception, match=r"head|divis|multiple|hidden"):
                _as_stock(model, len(heads), 2 if gqa else len(heads), folder)


def _as_stock(model: Any, heads: int, kv_heads: int, folder: Path) -> None:
    """Save and reload a stock model of other head counts, whatever the row says of it.

    Raises:
        Exception: if it does not load, or has heads of another size then.
    """
    text = model.config.get_text_config(decoder=True)
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = heads, kv_heads, HEAD_DIM
    with quiet():
        build(model.config).save_pretrained(folder)
        again = model_class(model.config).from_pretrained(folder)
    attention = again.get_decoder().layers[0].self_attn
    if attention.head_dim != HEAD_DIM:
        raise ValueError(f"{heads} heads of {attention.head_dim} entries, not of {HEAD_DIM}")


@pytest.mark.parametrize("what", ["mixed", "one-attention", "one-mlp", "heads-of-one-layer"])
@pytest.mark.parametrize("name", CASES, ids=str)
def test_a_stock_loader_stumbles_over_per_layer_shapes(
    name: str, what: str, tmp_path: Path
) -> None:
    """A loader that does not run a checkpoint's code fails; it never invents weights."""
    whole = dict.fromkeys(range(LAYERS), (ALL_HEADS, ALL_CHANNELS))
    kept = {
        "mixed": MIXED,
        "one-attention": {**whole, 2: ((), ALL_CHANNELS)},
        "one-mlp": {**whole, 2: (ALL_HEADS, ())},
        "heads-of-one-layer": {**whole, 2: ((0, 2), ALL_CHANNELS)},
    }[what]
    model = build(CASES[name].config())
    pruned = prune(model.config, state_arrays(model), plan_of(model, kept))
    with quiet():
        pruned.save_pretrained(tmp_path / "out", save_original_format=False)
        with pytest.raises(RuntimeError, match="size"):
            model_class(model.config).from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("kinds", [(0, 2), (1, 3)], ids=["sliding", "full"])
@pytest.mark.parametrize("name", ["gemma3_text", "gemma3-gemma3_text"])
def test_sliding_windows_stay_with_their_layers(name: str, kinds: tuple[int, ...]) -> None:
    """Gemma3 alternates windows: each kept layer takes its own along, even all of one kind."""
    case = CASES[name]
    model = build(case.config())
    plan = plan_of(model, dict.fromkeys(kinds, (ALL_HEADS, ALL_CHANNELS)))
    pruned = prune(model.config, state_arrays(model), plan)
    text = pruned.config.get_text_config(decoder=True)
    assert set(text.layer_types) == {"full_attention" if kinds[0] else "sliding_attention"}
    with masked(model, plan):
        reference = logits(model, case.inputs())
    assert (logits(pruned, case.inputs()) - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_layers_with_image_features_behind_them_are_kept() -> None:
    config = CASES["qwen3_vl-qwen3_vl_text"].config()
    assert anchored_layers(config) == spec_of(config).anchored == 2
    plan = plan_of(config, dict.fromkeys((0, 2, 3), (ALL_HEADS, ALL_CHANNELS)))
    with pytest.raises(AutoPruneError, match="drops layer 1, behind which 'qwen3_vl' adds image"):
        pruned_config(config, plan)


def test_rotary_factors_one_by_one_hold_the_head_count() -> None:
    """Phi3 with long contexts checks their number against hidden size by heads."""
    config = CASES["phi3"].config()
    assert head_rule(config) == "any"
    factors = [1.0] * (HEAD_DIM // 2)
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "short_factor": factors,
        "long_factor": factors,
    }
    assert head_rule(config) == "dense"
    plan = plan_of(config, dict.fromkeys(range(LAYERS), ((2, 3), ALL_CHANNELS)))
    assert records_shapes(pruned_config(config, plan))


def test_normed_queries_hold_the_head_count() -> None:
    """Phi can norm queries and keys, by a norm whose size follows from the number of heads."""
    case = CASES["phi"]
    model = build(case.config(gqa=False, qk_layernorm=True))
    assert (head_rule(CASES["phi"].config()), head_rule(model.config)) == ("any", "dense")
    for what in ("q-heads-in-groups", "mixed"):
        plan = plan_of(model, PLANS[what])
        pruned = prune(model.config, state_arrays(model), plan)
        assert records_shapes(pruned.config)
        with masked(model, plan):
            reference = logits(model, case.inputs())
        difference = (logits(pruned, case.inputs()) - reference).abs().max()
        assert difference <= 1e-5 * reference.abs().max()


def test_a_new_family_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of README's part on contributing, run: SmolLM3."""
    row = Family("smollm3", _PROJECTIONS, _GATED, layer_lists=("layer_types", "no_rope_layers"))
    monkeypatch.setitem(FAMILIES, "smollm3", row)
    monkeypatch.setitem(WRAPPERS, "smollm3", Wrapper("smollm3", None))
    case = Case("smollm3", "smollm3", CASES["llama"].build, None)
    model = build(case.config(no_rope_layers=[1, 0, 1, 0]))
    check_row(model)
    for kept in PLANS.values():
        plan = plan_of(model, kept)
        pruned = prune(model.config, state_arrays(model), plan)
        with masked(model, plan):
            reference = logits(model, case.inputs())
        difference = (logits(pruned, case.inputs()) - reference).abs().max()
        assert difference <= 1e-5 * reference.abs().max()
