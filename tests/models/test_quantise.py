"""Quantised models: which weights are, what is left, and that what is saved is what was scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import tiny_inputs, tiny_model, tiny_processor, tiny_text_config, tiny_tokenizer

from autoprune.errors import AutoPruneError
from autoprune.models import checkpoint
from autoprune.models import quantise as module
from autoprune.models.arrays import state_arrays
from autoprune.models.backbone import backbone_of
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.loading import inspect_model, load_model
from autoprune.models.precision import PRECISIONS
from autoprune.models.quantise import dequantise, is_quantised, quantise, quantised_copy
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import prune

QUANTISED = ("int8", "int4")
ALL = tuple(range(4)), tuple(range(24))
# Largest relative error of a whole weight that a format may make, in the 2-norm.
WORST = {"int8": 0.01, "int4": 0.12}


def pruned_model(config: Any = None, dtype: torch.dtype | None = None, **text: Any) -> Any:
    """Widths that suit groups of 16 and others, a dropped attention and a dropped MLP."""
    dense = tiny_model(config, **text)
    spec = spec_of(dense)
    layers = (
        LayerPlan(0, (0, 1), (0, 5, 7)),
        LayerPlan(1, (), ALL[1][:16]),
        LayerPlan(3, ALL[0], ()),
    )
    plan = PruningPlan("llama", spec.identity, 4, spec.q_per_group, layers)
    return prune(dense.config, state_arrays(dense), plan, dtype=dtype, spec=spec)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the fresh process where a test is about something else."""
    monkeypatch.setattr(checkpoint, "prove_reload", lambda directory, reference: None)


@pytest.mark.parametrize("precision", QUANTISED)
def test_only_the_backbones_linears_are_quantised(precision: str) -> None:
    model = pruned_model(tied=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = quantise(model, precision)
    changed = {n.removesuffix(".weight") for n, p in model.named_parameters() if is_quantised(p)}
    assert changed == set(done.linears)
    assert changed | set(done.left) == set(backbone_of(model).linear_names())
    for name, parameter in model.named_parameters():
        if is_quantised(parameter):
            error = (parameter.dequantize() - before[name]).norm() / before[name].norm()
            assert 0 < error < WORST[precision], name
        else:
            assert torch.equal(parameter, before[name]), name


def test_widths_that_groups_do_not_suit_are_left_and_named() -> None:
    model = pruned_model()
    done = quantise(model, "int4")
    left = "model.language_model.layers.0.mlp.down_proj"  # 3 columns
    assert done.left == (left,)
    assert left in model.config.quantization_config.modules_to_not_convert
    assert quantise(pruned_model(), "int8").left == ()


@pytest.mark.parametrize("rows", [1, 3, 128])
@pytest.mark.parametrize("columns", [1, 2, 16, 27, 32])
@pytest.mark.parametrize("precision", QUANTISED)
def test_every_shape_is_stored_as_its_row_of_the_table_says(
    precision: str, columns: int, rows: int
) -> None:
    storage = PRECISIONS[precision].storage
    assert storage is not None
    linear = torch.nn.Linear(columns, rows)
    if not storage.fits(columns):
        assert columns == 1 or columns % storage.group
        return
    module._QUANTISE[storage.library](linear)
    stored = {
        name: tuple(getattr(linear.weight, name.removeprefix("_weight_")).shape)
        for name in storage.tensors(rows, columns)
    }
    assert stored == {n: shape for n, (_, shape) in storage.tensors(rows, columns).items()}


def test_a_copy_shares_what_is_not_quantised_and_leaves_its_model_alone() -> None:
    model, inputs = pruned_model(), tiny_inputs()
    with torch.no_grad():
        before = model(**inputs).logits
        beside = quantised_copy(model, "int8")
        assert torch.equal(model(**inputs).logits, before)
        quantised = beside(**inputs).logits
    assert getattr(model.config, "quantization_config", None) is None
    assert 0 < (quantised - before).abs().max() < 0.1 * before.abs().max()
    own = {p.data_ptr() for p in model.parameters()}
    others = [p for p in beside.parameters() if not is_quantised(p) and p.numel()]
    assert all(p.data_ptr() in own for p in others)


@pytest.mark.parametrize("precision", QUANTISED)
def test_quantising_twice_gives_the_same_and_can_be_undone(precision: str) -> None:
    first, second = pruned_model(), pruned_model()
    quantise(first, precision)
    quantise(second, precision)
    a, b = state_arrays(dequantise(first)), state_arrays(dequantise(second))
    assert a.keys() == b.keys() == state_arrays(pruned_model()).keys()
    assert all((a[name] == b[name]).all() for name in a)
    assert quantise(first, precision).linears  # it is a plain model again


@pytest.mark.parametrize("precision", QUANTISED)
def test_weights_of_zeros_stay_zeros(precision: str) -> None:
    model = pruned_model()
    linear = model.get_submodule("model.language_model.layers.0.mlp.gate_proj")
    linear.weight.data.zero_()
    model.get_submodule("model.language_model.layers.0.mlp.up_proj").weight.data[0].zero_()
    quantise(model, precision)
    assert not linear.weight.dequantize().any()
    assert torch.isfinite(model(**tiny_inputs()).logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("precision", QUANTISED)
def test_saved_quantised_models_load_in_a_fresh_process_and_here(
    precision: str, tmp_path: Path
) -> None:
    model = pruned_model(tied=False)
    quantise(model, precision)
    saved = save_checkpoint(model, tiny_processor(), tmp_path / "out")
    assert saved.proof.max_abs_diff <= 1e-5 * saved.proof.scale
    assert inspect_model(saved.path).quantised == precision
    again = load_model(saved.path)
    inputs = tiny_inputs()
    assert torch.equal(again.model(**inputs).logits, model(**inputs).logits)
    assert again.spec == spec_of(pruned_model(tied=False))


@pytest.mark.slow
@pytest.mark.parametrize("precision", QUANTISED)
def test_a_uniform_one_needs_no_code_of_its_own(precision: str, tmp_path: Path) -> None:
    model = tiny_model(layers=2, channels=16, tied=False)
    quantise(model, precision)
    saved = save_checkpoint(model, tiny_processor(), tmp_path / "out")
    assert saved.proof.max_abs_diff == 0
    assert saved.proof.model_class == "LlavaForConditionalGeneration"
    assert "pip install torchao" in (saved.path / "README.md").read_text()
    inputs = tiny_inputs()
    assert torch.equal(load_model(saved.path).model(**inputs).logits, model(**inputs).logits)


@pytest.mark.slow
def test_a_plain_language_model_in_bfloat16_reloads(tmp_path: Path) -> None:
    model = pruned_model(tiny_text_config(tied=False, gqa=False), dtype=torch.bfloat16)
    quantise(model, "int8")
    saved = save_checkpoint(model, tiny_tokenizer(), tmp_path / "out")
    again = load_model(saved.path)  # float32 is asked for, and the checkpoint keeps its own
    assert again.model.dtype == torch.bfloat16
    inputs = tiny_inputs(images=False)
    assert torch.equal(again.model(**inputs).logits, model(**inputs).logits)


def test_damaged_quantised_checkpoints_are_named(tmp_path: Path, unproved: None) -> None:
    model = pruned_model()
    quantise(model, "int8")
    out = tmp_path / "out"
    save_checkpoint(model, tiny_processor(), out)
    config = json.loads((out / "config.json").read_text())
    narrower = json.loads(json.dumps(config))
    narrower["text_config"]["autoprune"]["layers"][0][2] = 2
    (out / "config.json").write_text(json.dumps(narrower))
    with pytest.raises(AutoPruneError, match=r"_weight_qdata .*config.json says \[2, 32\]"):
        inspect_model(out)
    config["quantization_config"]["quant_type"]["default"]["_type"] = "Float8WeightOnlyConfig"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(AutoPruneError, match=r"quantised by torchao .Float8.*does not read"):
        inspect_model(out)
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(AutoPruneError, match="quantised by bitsandbytes, which"):
        load_model(out)


def test_what_cannot_be_quantised_takes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AutoPruneError, match=r"unknown precision 'int44'.*did you mean 'int4'"):
        quantise(pruned_model(), "int44")
    model = pruned_model()
    quantise(model, "int8")
    with pytest.raises(AutoPruneError, match="quantised already"):
        quantise(model, "int4")
    broken = pruned_model()
    broken.get_submodule("model.language_model.layers.0.mlp.up_proj").weight.data[0] = torch.nan
    with pytest.raises(AutoPruneError, match=r"layers.0.mlp.up_proj is not finite"):
        quantise(broken, "int8")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(AutoPruneError, match="pip install torchao"):
        quantise(pruned_model(), "int8")
    assert quantise(pruned_model(), "float32").linears == ()
