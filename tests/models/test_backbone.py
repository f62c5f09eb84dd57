"""The view of a decoder: every projection, and where its units lie."""

from __future__ import annotations

import pytest
import torch
from support.models import tiny_model, tiny_text_config

from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.families import FAMILIES, family_of, wrapper_of
from autoprune.models.shape import LayerShape, spec_of


@pytest.mark.parametrize("plain", [True, False])
def test_view_finds_everything(plain: bool) -> None:
    model = tiny_model(tiny_text_config()) if plain else tiny_model()
    backbone = backbone_of(model)
    assert backbone.shapes == (LayerShape(4, 2, 24),) * 4 == spec_of(model).layers
    assert backbone.q_per_group == 2
    assert backbone.head is model.lm_head
    assert backbone.final_norm is model.get_decoder().norm
    assert model.get_submodule(backbone.prefix)[1] is backbone.layers[1]
    assert [type(model.get_submodule(name)) for name in backbone.linear_names()] == (
        [torch.nn.Linear] * 7 * 4
    )


def test_slices_cover_each_projection_once() -> None:
    backbone = backbone_of(tiny_model())
    layer = backbone.layers[2]
    heads = {(s.part, s.stop - s.start, s.output) for s in backbone.attention_slices(2)}
    assert heads == {("q", 32, False), ("kv", 16, False), ("q", 32, True)}
    assert len(backbone.attention_slices(2)) == 4
    assert [s.linear for s in backbone.mlp_slices(2)] == [
        layer.mlp.gate_proj,
        layer.mlp.up_proj,
        layer.mlp.down_proj,
    ]
    assert backbone.attention_output(2) is layer.self_attn.o_proj
    assert backbone.mlp_output(2) is layer.mlp.down_proj


def test_unknown_families_list_the_known() -> None:
    config = tiny_text_config()
    config.model_type = "opt"
    for ask in (family_of, wrapper_of):
        with pytest.raises(AutoPruneError, match="llama"):
            ask(config)


def test_rows_name_what_exists() -> None:
    """Tracing: the in-projections of a row share the sublayer's input, the out-projection not."""
    for family in FAMILIES.values():
        assert family.model_type == "llama", "give the contract tests a model of each family"
    model = tiny_model(tiny_text_config())
    layer = model.get_decoder().layers[0]
    seen: dict[str, int] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, args[0].data_ptr())
        )
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    model(torch.tensor([[1, 5, 6]]))
    for hook in hooks:
        hook.remove()
    for sublayer in (family_of(model.config).attention, family_of(model.config).mlp):
        inputs = {seen.pop(f"{sublayer.module}.{p.name}") for p in sublayer.inputs}
        assert len(inputs) == 1
        assert seen.pop(f"{sublayer.module}.{sublayer.output.name}") not in inputs
    assert not seen, "every linear of a layer is in its family's row"
