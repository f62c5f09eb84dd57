"""Importance is what a plain, slow computation gives, and does not disturb the model."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import tiny_model
from support.samples import sample_set

from autoprune.data.encoding import Batch, collate
from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.shape import spec_of
from autoprune.models.vision import block_mask, vision_features
from autoprune.pruning.importance import measure
from autoprune.pruning.scores import CRITERIA, IMAGE, TEXT, Importance, scores

ARRAYS = [f.name for f in dataclasses.fields(Importance) if f.type == "np.ndarray"]


def sample_loss(model: Any, batch: Batch) -> torch.Tensor:
    mask = block_mask(batch.attention_mask, torch.float32, model.config._attn_implementation)
    logits = model(
        input_ids=batch.input_ids,
        pixel_values=batch.pixel_values,
        attention_mask=mask,
        position_ids=batch.position_ids,
    ).logits
    rows, cols, targets = batch.answer_index
    return torch.nn.functional.cross_entropy(logits[rows, cols], targets)


@pytest.mark.parametrize("traits", [{"gqa": True}, {"gqa": False, "bias": True, "tied": False}])
def test_weight_taylor_and_magnitude_against_autograd(traits: dict[str, Any]) -> None:
    model, encoded = tiny_model(**traits), sample_set()
    found = measure(model, encoded, range(5), batch_size=2)
    backbone = backbone_of(model)
    groups, head = backbone.shapes[0].kv_heads, backbone.head_dim
    taylor_g, taylor_c, taylor_h = np.zeros((4, groups)), np.zeros((4, 24)), np.zeros((4, 4))
    for row in range(5):
        model.zero_grad()
        sample_loss(model, collate(encoded, [row])).backward()
        for index, layer in enumerate(backbone.layers):
            attention, mlp = layer.self_attn, layer.mlp

            def saliency(p: torch.Tensor) -> np.ndarray:
                return (p * p.grad).abs().detach().numpy()

            for name in ("q_proj", "k_proj", "v_proj"):
                linear = getattr(attention, name)
                taylor_g[index] += saliency(linear.weight).reshape(groups, -1).sum(1)
                if linear.bias is not None:
                    taylor_g[index] += saliency(linear.bias).reshape(groups, -1).sum(1)
            taylor_g[index] += saliency(attention.o_proj.weight).sum(0).reshape(groups, -1).sum(1)
            taylor_h[index] += saliency(attention.q_proj.weight).reshape(4, -1).sum(1)
            taylor_h[index] += saliency(attention.o_proj.weight).sum(0).reshape(4, -1).sum(1)
            for linear in (mlp.gate_proj, mlp.up_proj):
                taylor_c[index] += saliency(linear.weight).sum(1)
                if linear.bias is not None:
                    taylor_c[index] += saliency(linear.bias)
            taylor_c[index] += saliency(mlp.down_proj.weight).sum(0)
    assert np.allclose(found.weight_taylor_groups, taylor_g / 5, rtol=1e-4)
    assert np.allclose(found.weight_taylor_channels, taylor_c / 5, rtol=1e-4)
    layer = backbone.layers[2]
    if traits["gqa"]:
        assert np.allclose(found.weight_taylor_heads, taylor_h / 5, rtol=1e-4)
        attention = layer.self_attn
        square = attention.q_proj.weight.square().reshape(4, -1).sum(1)
        square = square + attention.o_proj.weight.square().sum(0).reshape(4, -1).sum(1)
        assert np.allclose(found.magnitude_heads[2], square.detach().numpy(), rtol=1e-5)
        assert (found.head_params == spec_of(model).head_params).all()
        assert scores(found).heads.shape == (4, 4)
    else:  # every head has keys of its own
        assert found.weight_taylor_heads.shape == (4, 0)
        assert scores(found).heads is None
    square = sum(p.square().sum(1) for p in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight))
    square = square + layer.mlp.down_proj.weight.square().sum(0)
    for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
        square = square + (0 if linear.bias is None else linear.bias.square())
    assert np.allclose(found.magnitude_channels[2], square.detach().numpy(), rtol=1e-5)
    assert head * 4 == layer.self_attn.q_proj.out_features


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_gate_taylor_against_real_gates(attn: str) -> None:
    """∂ℓ/∂gate with a gate on each unit at each token, for image and text tokens apart."""
    model, encoded = tiny_model(attn=attn), sample_set()
    found = measure(model, encoded, range(5), batch_size=3)
    layer = backbone_of(model).layers[1]
    groups, channels, heads = np.zeros((2, 2)), np.zeros((24, 2)), np.zeros((4, 2))
    for row in range(5):
        batch = collate(encoded, [row])
        for module, total, width in (
            (layer.self_attn.o_proj, groups, 16),
            (layer.self_attn.o_proj, heads, 8),
            (layer.mlp.down_proj, channels, 1),
        ):
            gate = torch.ones(*batch.input_ids.shape, len(total), requires_grad=True)

            def apply(_: Any, args: Any, gate=gate, width=width) -> Any:
                return (args[0] * gate.repeat_interleave(width, dim=-1),)

            handle = module.register_forward_pre_hook(apply)
            (slope,) = torch.autograd.grad(sample_loss(model, batch), gate)
            handle.remove()
            for modality, mask in ((IMAGE, batch.image_tokens), (TEXT, ~batch.image_tokens)):
                total[:, modality] += slope[mask].abs().sum(0).numpy()
    assert np.allclose(found.gate_taylor_groups[1], groups / 5, rtol=1e-4, atol=1e-9)
    assert np.allclose(found.gate_taylor_heads[1], heads / 5, rtol=1e-4, atol=1e-9)
    assert np.allclose(found.gate_taylor_channels[1], channels / 5, rtol=1e-4, atol=1e-9)


def test_influence_and_activation_against_hidden_states() -> None:
    model, encoded = tiny_model(), sample_set()
    found = measure(model, encoded, range(5), batch_size=5)
    layer = backbone_of(model).layers[2]
    inputs: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for module in (layer.mlp.down_proj, layer.post_attention_layernorm)
    ]
    influence = {name: [[], []] for name in ("block", "attention", "mlp")}
    energy: list[list[torch.Tensor]] = [[], []]
    columns = layer.mlp.down_proj.weight.square().sum(0)
    for row in range(5):
        batch = collate(encoded, [row])
        inputs.clear()
        with torch.no_grad():
            states = model(
                input_ids=batch.input_ids,
                pixel_values=batch.pixel_values,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                output_hidden_states=True,
            ).hidden_states
        middle, act = inputs  # the norm before the MLP reads the stream that the MLP adds to
        for modality, mask in ((IMAGE, batch.image_tokens), (TEXT, ~batch.image_tokens)):
            for name, a, b in (
                ("block", states[2], states[3]),
                ("attention", states[2], middle),
                ("mlp", middle, states[3]),
            ):
                cosine = (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)
                influence[name][modality].append((1 - cosine)[mask])
            stream = middle.square().sum(-1, keepdim=True)
            energy[modality].append((act.square() * columns / stream)[mask])
    for handle in handles:
        handle.remove()
    for modality in (IMAGE, TEXT):
        for name, values in influence.items():
            expected = torch.cat(values[modality]).mean().item()
            assert getattr(found, f"{name}_influence")[2, modality] == pytest.approx(expected, 1e-4)
        expected = torch.cat(energy[modality]).mean(0).detach().numpy()
        assert np.allclose(found.activation_channels[2, :, modality], expected, rtol=1e-4)


def test_batches_and_features_make_no_difference() -> None:
    model, encoded = tiny_model(), sample_set()
    one = measure(model, encoded, range(5), batch_size=1)
    pixels = torch.from_numpy(encoded.pixel_values.astype(np.float32))
    features = vision_features(model, pixels)
    for other in (
        measure(model, encoded, [4, 2, 0, 1, 3], batch_size=4),
        measure(model, encoded.without_pixels(), range(5), batch_size=5, features=features),
        measure(model, encoded.without_pixels(), range(5), features=features.numpy()),
    ):
        for name in ARRAYS:
            assert np.allclose(getattr(one, name), getattr(other, name), rtol=1e-3), name
        assert other.loss == pytest.approx(one.loss, 1e-5)
    assert (one.samples, one.answer_tokens) == (5, encoded.num_answer_tokens)
    with pytest.raises(AutoPruneError, match="give the features"):
        measure(model, encoded.without_pixels(), range(5))


def test_gradients_of_two_samples_do_not_cancel() -> None:
    """Opposite pulls on a unit add up: the pass over both is the mean of the passes over each."""
    model, encoded = tiny_model(), sample_set()
    both, a, b = (measure(model, encoded, rows) for rows in ([0, 1], [0], [1]))
    mean = (a.weight_taylor_channels + b.weight_taylor_channels) / 2
    assert np.allclose(both.weight_taylor_channels, mean, rtol=1e-4)
    assert np.allclose(
        both.gate_taylor_groups, (a.gate_taylor_groups + b.gate_taylor_groups) / 2, rtol=1e-4
    )


def test_the_model_is_left_as_it_was() -> None:
    model, encoded = tiny_model(), sample_set()
    model.train()
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, encoded, [0, 1])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not frozen.requires_grad
    assert backbone_of(model).layers[0].mlp.up_proj.weight.requires_grad
    assert all(module.training for module in model.modules())
    for module in model.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            assert not hook.__module__.startswith("autoprune")


def test_no_graph_outlives_the_pass() -> None:
    """A hook that held a tensor of its own graph would keep the activations of every batch."""
    model, encoded = tiny_model(), sample_set()
    alive = []
    for _ in range(3):
        measure(model, encoded, range(4), batch_size=2)
        gc.collect()
        alive.append(sum(isinstance(found, torch.Tensor) for found in gc.get_objects()))
    assert alive[0] == alive[1] == alive[2]


def test_a_dead_unit_scores_nothing() -> None:
    model, encoded = tiny_model(), sample_set()
    layer = backbone_of(model).layers[0]
    with torch.no_grad():
        layer.mlp.down_proj.weight[:, 5] = 0
        layer.self_attn.o_proj.weight[:, 16:] = 0
    importance = measure(model, encoded, range(5))
    for criterion in CRITERIA:
        found = scores(importance, criterion)
        if criterion != "magnitude":
            assert found.channels[0].argmin() == 5
            assert found.groups[0].argmin() == 1
            assert found.channels[0, 5] == found.groups[0, 1] == 0
        assert (found.channels[1:] > 0).all()
        assert (found.groups[1:] > 0).all()


def test_scores_are_by_parameter_and_modality() -> None:
    model, encoded = tiny_model(), sample_set()
    importance = measure(model, encoded, range(5))
    spec = spec_of(model)
    assert (importance.group_params == spec.attention_group_params).all()
    assert (importance.channel_params == spec.channel_params).all()
    image, text, even = (scores(importance, "activation", weight) for weight in (0, 1, 0.5))
    for name in ("groups", "channels", "layers", "attention", "mlp"):
        a, b, c = (getattr(s, name) for s in (image, text, even))
        assert not np.allclose(a, b)
        assert np.allclose((a + b) / 2, c)
    only_text = measure(model, encoded, [4])
    assert np.isnan(only_text.block_influence[:, IMAGE]).all()
    assert np.isfinite(scores(only_text, "taylor", 0.2).channels).all()
    with pytest.raises(AutoPruneError, match="did you mean 'taylor'"):
        scores(importance, "tailor")
    with pytest.raises(AutoPruneError, match="text weight 2"):
        scores(importance, "taylor", 2)


def test_saves_and_loads(tmp_path: Path) -> None:
    importance = measure(tiny_model(), sample_set(), range(5))
    importance.save(tmp_path / "importance.npz")
    again = Importance.load(tmp_path / "importance.npz")
    assert again.identity == importance.identity
    assert (again.samples, again.loss) == (importance.samples, importance.loss)


def test_half_precision_and_overflow() -> None:
    encoded = sample_set()
    model = tiny_model()
    full = measure(model, encoded, range(5))
    half = measure(model.to(torch.bfloat16), encoded, range(5))
    ranks = [np.argsort(np.argsort(x.weight_taylor_channels[1])) for x in (full, half)]
    assert np.corrcoef(*ranks)[0, 1] > 0.95
    with torch.no_grad():
        backbone_of(model).layers[1].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(AutoPruneError, match="is not finite: measure in"):
        measure(model, encoded, range(5))


def test_nothing_to_measure_on() -> None:
    with pytest.raises(AutoPruneError, match="at least one"):
        measure(tiny_model(), sample_set(), [])
