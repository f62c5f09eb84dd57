"""FLOPs: the closed form equals what torch counts."""

from __future__ import annotations

import pytest
import torch
from support.families import CASES, IMAGE, build_model
from support.models import IMAGE_TOKENS, tiny_inputs, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from autoprune.cost.flops import flops_of
from autoprune.models.arrays import state_arrays
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import prune


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("gqa", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_equals_what_torch_counts(gqa: bool, bias: bool, tower: str) -> None:
    dense = tiny_model(gqa=gqa, bias=bias, tower=tower, attn="eager")
    spec = spec_of(dense)
    layers = (LayerPlan(0, (0, 1), (1, 2, 3)), LayerPlan(2, (), (4,)), LayerPlan(3, (0, 1), ()))
    plan = PruningPlan("llama", spec.identity, 4, spec.q_per_group, layers)
    costs = flops_of(dense.config)
    assert costs.image_tokens == IMAGE_TOKENS
    inputs = tiny_inputs(batch=1)
    tokens = inputs["input_ids"].shape[1]
    for model, shapes in (
        (dense, spec.layers),
        (prune(dense.config, state_arrays(dense), plan), plan.shapes),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**inputs, use_cache=False)
        counted = counter.get_total_flops()
        # Older releases make rotary angles by a product of positions and frequencies.
        angles = tokens * spec.head_dim
        assert counted - costs.forward(shapes, tokens=tokens, predicted=tokens) in (0, angles)


def test_steps_cost_more_the_more_is_trained() -> None:
    costs = flops_of(tiny_model().config)
    shapes = costs.spec.layers
    work = {"tokens": 12, "predicted": 2}
    forward = costs.forward(shapes, **work, vision=False)
    steps = {s: costs.step(shapes, scope=s, **work) for s in ("none", "projector", "lora", "full")}
    assert steps["none"] == forward
    assert steps["projector"] == steps["lora"] == 2 * forward
    assert steps["full"] == 3 * forward
    assert costs.step(shapes, scope="full", checkpointing=True, **work) == 4 * forward
    assert costs.forward(shapes, **work) == forward + costs.vision


@pytest.mark.parametrize("name", CASES)
def test_every_family_is_counted(name: str) -> None:
    """As torch counts a forward pass on the same inputs, images of a known length included."""
    case = CASES[name]
    model = build_model(case.config(), attn="eager")
    inputs = case.inputs(padded=False)
    rows, tokens = inputs["input_ids"].shape
    shown = int((inputs["input_ids"] == IMAGE).sum()) / rows
    costs = flops_of(model.config, shown or None)
    assert costs.image_tokens == shown
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs, use_cache=False)
    counted = counter.get_total_flops()
    shapes, images = costs.spec.layers, int(case.vision)
    said = rows * costs.forward(shapes, tokens=tokens, predicted=tokens, images=images)
    assert costs.vision > 0 or not case.vision
    # Tokens that end the lines of a picture of tiles come from no tower.
    newlines = 0.07 if case.wrapper in ("llava_next", "llava_onevision") else 0.0
    assert said == pytest.approx(counted, rel=newlines + 1e-3)


def test_towers_of_any_size_have_a_usual_image() -> None:
    costs = flops_of(CASES["qwen2_5_vl-qwen2_5_vl_text"].config())
    assert costs.image_tokens == (448 // 4 // 2) ** 2
    assert costs.vision > 0
