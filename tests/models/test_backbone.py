"""The view of a decoder: every projection, and where its units lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support.families import CASES, build_model
from support.models import tiny_model, tiny_text_config

from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.families import FAMILIES, WRAPPERS, family_of, wrapper_of
from autoprune.models.shape import LayerShape, spec_of
from autoprune.models.trace import check_row

ROW = FAMILIES["llama"]


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


@pytest.mark.parametrize("gqa", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tracing_confirms_each_row(case: str, gqa: bool) -> None:
    model = build_model(CASES[case].config(gqa=gqa))
    check_row(model)
    assert family_of(model.config).model_type == CASES[case].text
    assert spec_of(model) == spec_of(model.config)


def test_every_row_has_a_model_in_the_contract_tests() -> None:
    assert {case.text for case in CASES.values()} == set(FAMILIES)
    pairs = {(row.model_type, text) for row in WRAPPERS.values() for text in row.texts}
    assert {(case.wrapper, case.text) for case in CASES.values()} == pairs


class _Gated(torch.nn.Module):
    """An attention sublayer with a gate, which no row knows."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.__dict__.update(inner.__dict__)
        self.gate = torch.nn.Linear(32, 32)
        self.inner_forward = type(inner).forward

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        out, weights = self.inner_forward(self, hidden_states, **kwargs)
        return out * self.gate(hidden_states).sigmoid(), weights


def test_tracing_refuses_what_no_row_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(CASES["llama"].config())
    layer = model.model.layers[0]
    layer.self_attn = _Gated(layer.self_attn)
    with pytest.raises(AutoPruneError, match=r"self_attn.gate is a linear .* does not know"):
        check_row(model)
    for attention, why in (
        (dataclasses.replace(ROW.attention, inputs=ROW.attention.inputs[:2]), "v_proj"),
        (
            dataclasses.replace(
                ROW.attention, output=ROW.attention.inputs[0], inputs=ROW.attention.inputs[1:]
            ),
            "q_proj reads the very tensor",
        ),
    ):
        wrong = dataclasses.replace(ROW, attention=attention)
        monkeypatch.setitem(FAMILIES, "llama", wrong)
        with pytest.raises(AutoPruneError, match=why):
            check_row(build_model(CASES["llama"].config()))
