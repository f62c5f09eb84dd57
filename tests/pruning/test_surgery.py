"""The correctness oracle: a pruned model equals the dense one with those units masked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import (
    WORDS,
    tiny_inputs,
    tiny_llava_config,
    tiny_model,
    tiny_text_config,
)

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import from_arrays, state_arrays
from autoprune.models.backbone import backbone_of
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan, dense_plan, heads_of_groups
from autoprune.pruning.surgery import prune, pruned_config

LAYERS, CHANNELS, HEADS = 4, 24, 4
ALL_HEADS, ALL_CHANNELS = tuple(range(HEADS)), tuple(range(CHANNELS))

# The contract's data: which text configurations, and what is kept of each dense layer.
TRAITS: dict[str, dict[str, Any]] = {
    "gqa-tied": {"gqa": True, "tied": True},
    "mha-untied": {"gqa": False, "tied": False},
    "gqa-untied-biased-siglip": {"gqa": True, "tied": False, "bias": True, "tower": "siglip"},
}
Kept = dict[int, tuple[tuple[int, ...], tuple[int, ...]]]
PLANS: dict[str, Kept] = {
    "channels": {i: (ALL_HEADS, tuple(range(i, CHANNELS, 2))) for i in range(LAYERS)},
    "kv-groups": dict.fromkeys(range(LAYERS), ((2, 3), ALL_CHANNELS)),
    "q-heads-in-groups": dict.fromkeys(range(LAYERS), ((0, 3), ALL_CHANNELS)),
    "layers": dict.fromkeys((0, 3), (ALL_HEADS, ALL_CHANNELS)),
    "attention-sublayers": {i: (ALL_HEADS if i % 2 else (), ALL_CHANNELS) for i in range(LAYERS)},
    "mlp-sublayers": {i: (ALL_HEADS, () if i % 2 else ALL_CHANNELS) for i in range(LAYERS)},
    "mixed": {
        0: ((), (0, 1, 23)),
        1: ((0, 1), ALL_CHANNELS),
        3: (ALL_HEADS, (7,)),
    },
}


def plan_of(model: Any, kept: Kept) -> PruningPlan:
    spec = spec_of(model)
    layers = tuple(LayerPlan(index, *kept[index]) for index in sorted(kept))
    return PruningPlan("llama", spec.identity, len(spec.layers), spec.q_per_group, layers)


@contextmanager
def masked(model: Any, plan: PruningPlan) -> Iterator[None]:
    """Zero the pruned units at the out-projections' input of the dense model."""
    backbone = backbone_of(model)
    kept = {layer.index: layer for layer in plan.layers}
    hooks = []

    def mask_inputs(linear: torch.nn.Linear, indices: list[int], whole: bool) -> None:
        keep = torch.zeros(linear.in_features, dtype=linear.weight.dtype)
        keep[indices] = 1
        hooks.append(linear.register_forward_pre_hook(lambda _, args: (args[0] * keep,)))
        if not whole:  # a dropped sublayer adds nothing, its bias included
            hooks.append(linear.register_forward_hook(lambda _, args, out: out * 0))

    for index in range(plan.num_layers):
        layer = kept.get(index, LayerPlan(index, (), (0,)))
        heads = layer.heads
        channels = layer.channels if index in kept else ()
        size = backbone.head_dim
        entries = [head * size + e for head in heads for e in range(size)]
        mask_inputs(backbone.attention_output(index), entries, bool(heads))
        mask_inputs(backbone.mlp_output(index), list(channels), bool(channels))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return model(**inputs).logits


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("kept", PLANS, ids=str)
@pytest.mark.parametrize("traits", TRAITS, ids=str)
def test_pruned_equals_masked_dense(traits: str, kept: str, attn: str) -> None:
    dense = tiny_model(attn=attn, **TRAITS[traits])
    plan = plan_of(dense, PLANS[kept])
    # Stock eager attention makes NaN of padding in fp64 (a mask of the smallest fp64 in fp32).
    inputs = tiny_inputs(padded=attn == "sdpa")
    real = inputs["attention_mask"].bool()
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        model = dense.to(dtype)
        arrays = state_arrays(model)
        spec = spec_of(model)
        pruned = prune(model.config, arrays, plan, spec=spec)
        assert pruned.get_decoder().config._attn_implementation == attn
        assert next(pruned.parameters()).dtype == dtype
        with masked(model, plan):
            reference = logits(model, inputs)[real]
        difference = (logits(pruned, inputs)[real] - reference).abs().max()
        assert difference <= bound * reference.abs().max()
        # Negative control: the masked model is another one than the dense model.
        assert (logits(model, inputs)[real] - reference).abs().max() > 0.1
        counted = sum(parameter.numel() for parameter in pruned.parameters())
        assert counted == spec.params_of(plan.shapes)
        assert spec_of(pruned) == spec.with_layers(plan.shapes)


@st.composite
def kept_units(draw: st.DrawFn) -> Kept:
    """Any plan of two query heads a KV group: whole groups, or one head of each kept group."""
    kept: Kept = {}
    for index in sorted(draw(st.sets(st.integers(0, LAYERS - 1), min_size=1))):
        groups = sorted(draw(st.sets(st.integers(0, 1))))
        heads = heads_of_groups(groups, 2)
        if draw(st.booleans()):
            heads = tuple(2 * group + draw(st.integers(0, 1)) for group in groups)
        channels = draw(st.sets(st.integers(0, CHANNELS - 1), min_size=0 if heads else 1))
        kept[index] = (heads, tuple(sorted(channels)))
    return kept


@settings(max_examples=25, deadline=None)
@given(kept_units())
def test_any_plan_equals_its_masked_dense(kept: Kept) -> None:
    dense = tiny_model().double()
    plan = plan_of(dense, kept)
    pruned = prune(dense.config, state_arrays(dense), plan)
    inputs = tiny_inputs()
    real = inputs["attention_mask"].bool()
    with masked(dense, plan):
        reference = logits(dense, inputs)[real]
    assert (logits(pruned, inputs)[real] - reference).abs().max() <= 1e-9
    assert sum(p.numel() for p in pruned.parameters()) == spec_of(dense).params_of(plan.shapes)


def test_other_heads_give_other_logits() -> None:
    """Negative control: the same counts of other units do not pass the oracle."""
    dense = tiny_model()
    arrays = state_arrays(dense)
    one = plan_of(dense, dict.fromkeys(range(LAYERS), ((0, 1), ALL_CHANNELS)))
    two = plan_of(dense, dict.fromkeys(range(LAYERS), ((2, 3), ALL_CHANNELS)))
    with masked(dense, one):
        reference = logits(dense, tiny_inputs())
    other = logits(prune(dense.config, arrays, two), tiny_inputs())
    assert (other - reference).abs().max() > 0.1


def test_dropped_layer_equals_identity_layer_exactly() -> None:
    dense = tiny_model()
    plan = plan_of(dense, PLANS["layers"])
    pruned = prune(dense.config, state_arrays(dense), plan)
    hooks = [
        dense.get_decoder().layers[index].register_forward_hook(lambda _, args, out: args[0])
        for index in plan.dropped_layers
    ]
    try:
        reference = logits(dense, tiny_inputs())
    finally:
        for hook in hooks:
            hook.remove()
    assert torch.equal(logits(pruned, tiny_inputs()), reference)


def test_plain_language_model() -> None:
    dense = tiny_model(tiny_text_config())
    plan = plan_of(dense, PLANS["mixed"])
    pruned = prune(dense.config, state_arrays(dense), plan)
    inputs = tiny_inputs(images=False)
    real = inputs["attention_mask"].bool()
    with masked(dense, plan):
        reference = logits(dense, inputs)[real]
    assert (logits(pruned, inputs)[real] - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("kept", PLANS, ids=str)
@pytest.mark.parametrize("cache", [None, "static"])
def test_generate_with_cache_equals_without(kept: str, cache: str | None) -> None:
    dense = tiny_model()
    pruned = prune(dense.config, state_arrays(dense), plan_of(dense, PLANS[kept]))
    inputs = tiny_inputs()  # the second row is padded on the left
    how = {
        "max_new_tokens": 8,
        "min_new_tokens": 8,
        "do_sample": False,
        "suppress_tokens": [WORDS.index("<image>")],
    }
    cached = pruned.generate(**inputs, **how, cache_implementation=cache)
    uncached = pruned.generate(**inputs, **how, use_cache=False)
    assert torch.equal(cached, uncached)
    if cache is None:  # beams reorder the cache of dropped sublayers too
        beams = pruned.generate(**inputs, **how, num_beams=3)
        assert torch.equal(beams, pruned.generate(**inputs, **how, num_beams=3, use_cache=False))
    # Padding changes nothing: the padded row alone, without its padding, gives the same.
    alone = {
        "input_ids": inputs["input_ids"][1:, 1:],
        "attention_mask": inputs["attention_mask"][1:, 1:],
        "pixel_values": inputs["pixel_values"][1:],
    }
    assert torch.equal(pruned.generate(**alone, **how)[0], cached[1, 1:])


@pytest.mark.parametrize("kept", ["mixed", "layers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arrays_are_never_aliased_nor_changed(kept: str, dtype: torch.dtype) -> None:
    dense = tiny_model().to(dtype)
    arrays = state_arrays(dense)
    before = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False  # as Ray hands them out
    pruned = prune(dense.config, arrays, plan_of(dense, PLANS[kept]))
    config = dense.config.to_dict()
    with torch.no_grad():
        for tensor in (*pruned.parameters(), *pruned.buffers()):
            for array in arrays.values():
                values = tensor.view(torch.int16) if dtype == torch.bfloat16 else tensor
                if tensor.numel() and values.dtype not in (torch.bfloat16,):
                    assert not np.shares_memory(values.numpy(), array)
            tensor.add_(1)
    assert all(np.array_equal(before[name], arrays[name]) for name in arrays)
    assert dense.config.to_dict() == config


def test_peak_memory_is_the_pruned_model() -> None:
    """What surgery holds at any time stays near what it keeps, not what was dense."""
    import tracemalloc

    config = tiny_llava_config(layers=4, hidden=64, channels=32768)  # 100 MB in all
    arrays = state_arrays(tiny_model(config))
    spec = spec_of(config)
    plan = plan_of(config, dict.fromkeys(range(4), (ALL_HEADS, tuple(range(0, 32768, 4)))))
    prune(config, arrays, plan)  # warm: imports and caches
    tracemalloc.start()
    model = prune(config, arrays, plan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = sum(p.numel() * p.element_size() for p in model.parameters())
    assert kept == 4 * spec.params_of(plan.shapes) < 0.26 * 4 * spec.total_params
    assert peak < 1.3 * kept, "the pruned model, one tensor in the making, and Python's objects"


def test_dense_plan_gives_the_dense_model() -> None:
    for tied in (True, False):
        dense = tiny_model(tied=tied)
        arrays = state_arrays(dense)
        same = from_arrays(dense.config, arrays)
        pruned = prune(dense.config, arrays, dense_plan(spec_of(dense)))
        for model in (same, pruned):
            assert torch.equal(logits(model, tiny_inputs()), logits(dense, tiny_inputs()))
            head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
            assert (head.weight is embedding.weight) == tied


def test_bfloat16_round_trip_is_exact() -> None:
    dense = tiny_model().to(torch.bfloat16)
    arrays = state_arrays(dense)
    assert arrays["model.language_model.norm.weight"].dtype == np.int16
    same = from_arrays(dense.config, arrays)
    assert torch.equal(logits(same, tiny_inputs()), logits(dense, tiny_inputs()))
    wide = from_arrays(dense.config, arrays, dtype=torch.float32)
    assert next(wide.parameters()).dtype == torch.float32
    assert torch.equal(wide.lm_head.weight.bfloat16(), dense.lm_head.weight)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_pruned_model_trains(checkpointing: bool) -> None:
    dense = tiny_model()
    pruned = prune(dense.config, state_arrays(dense), plan_of(dense, PLANS["mixed"]))
    inputs = tiny_inputs()
    if checkpointing:
        pruned.gradient_checkpointing_enable()
        pruned.train()
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = pruned(**inputs, labels=inputs["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_layer_types_follow_the_kept_layers() -> None:
    config = tiny_llava_config()
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config.text_config.layer_types = kinds
    plan = plan_of(config, {1: (ALL_HEADS, ALL_CHANNELS), 2: (ALL_HEADS, ALL_CHANNELS)})
    text = pruned_config(config, plan).text_config
    assert text.layer_types == kinds[1:3]
    assert text.num_hidden_layers == 2
    assert config.text_config.num_hidden_layers == LAYERS


def test_misfits_are_refused() -> None:
    dense = tiny_model()
    arrays = state_arrays(dense)
    plan = plan_of(dense, PLANS["mixed"])
    with pytest.raises(AutoPruneError, match="for 4 layers"):
        prune(tiny_llava_config(layers=5), arrays, plan)
    with pytest.raises(AutoPruneError, match="configuration says"):
        prune(tiny_llava_config(channels=30), arrays, plan)
    with pytest.raises(AutoPruneError, match="is missing"):
        prune(dense.config, {}, plan)
    beyond = plan_of(dense, {0: (ALL_HEADS, (24,))})
    with pytest.raises(AutoPruneError, match="has 24"):
        prune(dense.config, arrays, beyond)
    with pytest.raises(AutoPruneError, match="keeps channel 24"):
        beyond.check(spec_of(dense))
    with pytest.raises(AutoPruneError, match="dense shape"):
        plan.check(spec_of(tiny_llava_config(bias=True)))
    pruned = prune(dense.config, arrays, plan)
    with pytest.raises(AutoPruneError, match="already pruned"):
        pruned_config(pruned.config, plan_of(pruned, {0: ((), (0,))}))
    with pytest.raises(AutoPruneError, match="has shape"):
        from_arrays(tiny_llava_config(channels=30), arrays)


def test_whole_groups() -> None:
    assert heads_of_groups((2, 0), 2) == (0, 1, 4, 5)
