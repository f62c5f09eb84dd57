from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autoprune.data.encoding import EncodedSet
from autoprune.errors import AutoPruneError
from autoprune.recovery.loop import Recovery
from autoprune.recovery.recipe import SCOPE_NAMES, RecoveryRecipe
from autoprune.recovery.scopes import SCOPES, close_scope, open_scope

TRAINED = {
    "none": (),
    "projector": ("multi_modal_projector",),
    "lora": ("multi_modal_projector", "language_model.layers"),
    "full": ("multi_modal_projector", "language_model", "lm_head"),
}


def recipe_of(scope: str, **values: Any) -> RecoveryRecipe:
    defaults = {"sample_passes": 16, "batch_size": 8, "learning_rate": 1e-2, "lora_rank": 4}
    return RecoveryRecipe(scope=scope, **{**defaults, **values})


def test_the_table_and_the_recipe_agree() -> None:
    assert tuple(SCOPES) == SCOPE_NAMES


@pytest.mark.parametrize("scope", SCOPE_NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_scope_trains_exactly_what_it_names(
    scope: str, tied: bool, make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    model = make_model(1, tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recovery = Recovery(model, encoded, None, recipe_of(scope))
    recovery.run()
    after = recovery.finish().state_dict()
    assert set(after) == set(before), "finish leaves the model's own parameters and no others"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    expected = {name for name in before if any(part in name for part in TRAINED[scope])}
    if scope == "lora":
        expected = {n for n in expected if "proj" in n}
    assert changed == expected


def test_lora_merges_into_the_same_function(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    model = make_model(1)
    recovery = Recovery(model, encoded, None, recipe_of("lora"))
    recovery.run()
    ids = torch.arange(10, 22).reshape(1, -1)
    with torch.no_grad():
        split = model(input_ids=ids).logits
        assert any("lora_" in name for name, _ in model.named_parameters())
        merged = recovery.finish()(input_ids=ids).logits
    assert not any("lora_" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(merged, split, rtol=1e-4, atol=1e-5)


def test_lora_starts_where_the_model_is_and_from_its_seed(make_model: Callable[..., Any]) -> None:
    ids = torch.arange(10, 22).reshape(1, -1)
    starts = []
    for seed in (0, 0, 1):
        model = make_model(1)
        with torch.no_grad():
            before = model(input_ids=ids).logits
            parameters = open_scope(model, recipe_of("lora", seed=seed))
            torch.testing.assert_close(model(input_ids=ids).logits, before)
        starts.append(next(p for n, p in parameters.items() if "lora_A" in n))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_lora_stands_on_every_projection_of_the_decoder_only(
    make_model: Callable[..., Any],
) -> None:
    model = make_model(1)
    names = [n for n in open_scope(model, recipe_of("lora")) if "lora_A" in n]
    assert len(names) == 2 * 7
    assert all("language_model" in name for name in names)
    close_scope(model)


def test_lora_skips_sublayers_that_a_prune_dropped(make_model: Callable[..., Any]) -> None:
    model = make_model(1)
    model.get_decoder().layers[0].mlp = torch.nn.Identity()
    names = [n for n in open_scope(model, recipe_of("lora")) if "lora_A" in n]
    assert len(names) == 2 * 7 - 3


def test_half_precision_trains_in_float32_and_comes_back(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    model = make_model(1)
    projector = model.model.multi_modal_projector.to(torch.bfloat16)
    recovery = Recovery(model, encoded, None, recipe_of("projector"))
    assert all(p.dtype == torch.float32 for p in recovery.parameters.values())
    recovery.run()
    recovery.finish()
    assert all(p.dtype == torch.bfloat16 for p in projector.parameters())


def test_a_language_model_has_no_projector(make_model: Callable[..., Any]) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(make_model().config.text_config)
    with pytest.raises(AutoPruneError, match="no projector"):
        open_scope(model, recipe_of("projector"))
    assert open_scope(model, recipe_of("full"))
