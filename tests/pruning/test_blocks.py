"""The pass through one layer at a time gives what one graph over all of them gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from support.families import CASES, build_model
from support.models import tiny_model
from support.one_graph import one_graph
from support.samples import sample_set

from autoprune.models.arrays import from_arrays, state_arrays
from autoprune.models.backbone import backbone_of
from autoprune.pruning import importance as room
from autoprune.pruning import probe
from autoprune.pruning.blocks import Blocks, blockwise, brought
from autoprune.pruning.importance import measure
from autoprune.pruning.scores import Importance


def differences(one: Importance, other: Importance) -> dict[str, float]:
    """The largest relative difference of everything that was measured."""
    found = {}
    for field in fields(Importance):
        if field.name == "peak_bytes":
            continue
        a, b = (np.asarray(getattr(i, field.name), float) for i in (one, other))
        assert a.shape == b.shape
        assert np.array_equal(np.isnan(a), np.isnan(b)), field.name
        if np.isnan(a).all():  # heads inside groups, where every group is one head
            continue
        scale = np.nanmax(np.abs(a))
        found[field.name] = float(np.nanmax(np.abs(a - b)) / scale)
    return found


def in_one_graph(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Importance]) -> Importance:
    with monkeypatch.context() as patch:
        patch.setattr(room, "blockwise", one_graph)
        return run()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "traits", [{"gqa": True}, {"gqa": False, "bias": True, "tied": False}], ids=["gqa", "mha-bias"]
)
def test_layer_by_layer_equals_one_graph(
    traits: dict[str, Any], attn: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(attn=attn, **traits).double()
    encoded = sample_set(packed=packed)
    rows = range(len(encoded))
    one = in_one_graph(monkeypatch, lambda: measure(model, encoded, rows, batch_size=2))
    blocks = measure(model, encoded, rows, batch_size=2)
    assert max(differences(one, blocks).values()) < 1e-6
    assert np.nanmin(blocks.weight_taylor_channels) > 0
    assert blocks.peak_bytes > 0
    # Negative control: other rows give something else.
    other = measure(model, encoded, [0], batch_size=2)
    assert differences(one, other)["weight_taylor_channels"] > 1e-2


def test_half_precision_equals_one_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = tiny_model().to(torch.bfloat16), sample_set()
    one = in_one_graph(monkeypatch, lambda: measure(model, encoded, range(5)))
    assert max(differences(one, measure(model, encoded, range(5))).values()) < 1e-6


def test_gradients_of_large_layers_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = tiny_model(bias=True), sample_set()
    whole = measure(model, encoded, range(5))
    for held in (1, 100, 2000):  # part of a unit's row, a few units, several samples
        monkeypatch.setattr(probe, "GRADIENTS", held)
        assert max(differences(whole, measure(model, encoded, range(5))).values()) < 1e-6


@contextmanager
def watched(model: Any, blocks: Blocks, seen: list[Any]) -> Any:
    """Note the gradient at the input of each out-projection, in the order it comes."""

    def note(index: int) -> Any:
        def hook(_: Any, args: tuple[torch.Tensor, ...], __: Any) -> None:
            if blocks.counting:
                args[0].register_hook(lambda grad: seen.append((index, grad.clone())))

        return hook

    backbone = backbone_of(model)
    handles = [
        linear.register_forward_hook(note(index))
        for index in range(len(backbone.shapes))
        for linear in (backbone.attention_output(index), backbone.mlp_output(index))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", CASES)
def test_whatever_forward_runs_the_layers(name: str) -> None:
    """Every family's own forward: masks, positions and what it adds between its layers."""
    case = CASES[name]
    model = build_model(case.config()).requires_grad_(False)
    layers = backbone_of(model).layers
    found = []
    for wrap in (True, False):
        blocks, seen = Blocks(), []
        hook = model.get_input_embeddings().register_forward_hook(
            lambda _, __, out, wrap=wrap: None if wrap else out.requires_grad_()
        )
        wrapping = blockwise(layers, blocks) if wrap else nullcontext()
        with wrapping, watched(model, blocks, seen):
            logits = model(**case.inputs(), use_cache=False).logits
            logits[:, -3:].square().mean().backward()
        hook.remove()
        assert all("forward" not in vars(layer) for layer in layers)
        found.append(seen)
    one, two = found
    assert len(one) == len(two) == 2 * len(layers)
    order = sorted(range(len(one)), key=lambda i: -one[i][0])
    assert order == list(range(len(one))), "the last layer's gradients come first"
    for (index, a), (same, b) in zip(one, sorted(two, key=lambda pair: -pair[0]), strict=True):
        assert index == same
        assert (a - b).abs().max() <= 1e-6 * b.abs().max()
        assert b.abs().max() > 0


def test_weights_are_brought_a_layer_at_a_time() -> None:
    dense, encoded = tiny_model(), sample_set()
    arrays = state_arrays(dense)
    model = from_arrays(dense.config, arrays, layers=False)
    layers = backbone_of(model).layers
    assert all(p.is_meta for layer in layers for p in layer.parameters())

    most = 0

    def count(*_: Any) -> None:
        nonlocal most
        here = [layer for layer in layers if not any(p.is_meta for p in layer.parameters())]
        most = max(most, len(here))

    handles = [layer.mlp.register_forward_hook(count) for layer in layers]
    streamed = measure(model, encoded, range(5), weights=arrays)
    for handle in handles:
        handle.remove()
    assert most == 1
    assert max(differences(measure(dense, encoded, range(5)), streamed).values()) < 1e-6
    assert all(p.is_meta for layer in layers for p in layer.parameters())


def test_layers_are_put_back_after_an_error() -> None:
    model = tiny_model()
    layers = backbone_of(model).layers
    with pytest.raises(ZeroDivisionError), blockwise(layers, Blocks()):
        raise ZeroDivisionError
    assert all("forward" not in vars(layer) for layer in layers)
    with (
        pytest.raises(RuntimeError, match="cannot write to a cache"),
        blockwise(layers, Blocks()),
    ):
        model.get_decoder()(inputs_embeds=torch.zeros(1, 2, 32), use_cache=True)
    # Without gradients the layers simply run.
    before = model(input_ids=torch.tensor([[1, 5, 6]])).logits
    with blockwise(layers, Blocks()), torch.no_grad():
        assert torch.equal(
            model(input_ids=torch.tensor([[1, 5, 6]]), use_cache=False).logits, before
        )
    empty = from_arrays(model.config, state_arrays(model), layers=False)
    with pytest.raises(Exception, match="is missing"), brought(backbone_of(empty), {})(0):
        pass
