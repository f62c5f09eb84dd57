"""The ten mistakes of the study's released code, in its order; none of them is made here.

Each test exercises the room that could make the mistake, so the list stands in one place; the
rooms' own tests go deeper.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autoprune
from autoprune.cost.parameters import size_of
from autoprune.data.encoding import EncodedSet, collate
from autoprune.data.fractions import nested_fraction
from autoprune.models import checkpoint
from autoprune.models.arrays import state_arrays
from autoprune.models.families import FAMILIES, WRAPPERS
from autoprune.models.shape import BackboneSpec, spec_of
from autoprune.pruning.allocation import allocate
from autoprune.pruning.importance import measure
from autoprune.pruning.knobs import BASELINES, Allocation
from autoprune.pruning.plan import dense_plan
from autoprune.pruning.scores import IMAGE, TEXT, Importance, UnitScores, scores
from autoprune.pruning.surgery import prune
from autoprune.recovery.loop import Recovery
from autoprune.recovery.losses import LOSSES, Answers
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.teacher import CachedTeacher, OnlineTeacher, build_teacher
from autoprune.zoo.model import build_config, build_processor


@pytest.fixture(scope="module")
def spec() -> BackboneSpec:
    return spec_of(build_config())


@pytest.fixture
def importance(spec: BackboneSpec) -> Importance:
    """Every parameter matters equally: what a unit scores is what it costs."""
    layers, groups, channels = len(spec.layers), spec.layers[0].kv_heads, spec.layers[0].channels
    values: dict[str, Any] = {
        "group_params": np.full(layers, float(spec.attention_group_params)),
        "channel_params": np.full(layers, float(spec.channel_params)),
        "head_params": np.full(layers, np.nan),
        "samples": 1,
        "answer_tokens": 1,
        "loss": 1.0,
    }
    for field in dataclasses.fields(Importance):
        if field.name.endswith("groups"):
            values[field.name] = np.full((layers, groups), float(spec.attention_group_params))
        elif field.name.endswith("channels"):
            values[field.name] = np.full((layers, channels), float(spec.channel_params))
        elif field.name.endswith("heads"):  # each has keys of its own
            values[field.name] = np.zeros((layers, 0))
        elif field.name.endswith("influence"):
            values[field.name] = np.arange(layers * 2.0).reshape(layers, 2)
    return Importance(**values)


@pytest.fixture
def unit_scores(spec: BackboneSpec) -> UnitScores:
    draw = np.random.default_rng(0)
    layers, first = len(spec.layers), spec.layers[0]
    return UnitScores(
        groups=draw.random((layers, first.kv_heads)),
        channels=draw.random((layers, first.channels)),
        layers=draw.random(layers),
        attention=draw.random(layers),
        mlp=draw.random(layers),
    )


@pytest.mark.parametrize("online", [False, True])
def test_1_the_teacher_uses_its_own_projector(
    online: bool, make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    dense, student = make_model(0), make_model(0)
    cache = build_teacher(dense, encoded, 0 if online else None)
    teacher = OnlineTeacher(cache, lambda: dense) if online else CachedTeacher(cache)
    batch = collate(encoded, range(8))
    before = teacher.hidden(batch)
    recipe = RecoveryRecipe(scope="projector", hidden=1.0, sample_passes=32, learning_rate=0.1)
    recovery = Recovery(student, encoded, teacher, recipe)
    assert recovery.run(0.01).loss != recovery.run(1.0).loss
    assert torch.equal(teacher.hidden(batch), before)
    moved = student.model.multi_modal_projector.linear_1.weight
    assert not torch.equal(moved, dense.model.multi_modal_projector.linear_1.weight)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_2_losses_know_answer_tokens_only_and_are_averaged_over_them(
    loss: str, make_model: Callable[..., Any], encoded: EncodedSet, teacher: CachedTeacher
) -> None:
    """A longer neighbour pads a sample; what the sample adds per answer token stays."""
    lengths, answers = np.diff(encoded.offsets), np.diff(encoded.answer_offsets)
    short, long = int(lengths.argmin()), int(lengths.argmax())
    assert lengths[short] < lengths[long]
    weights = {**dict.fromkeys(LOSSES, 0.0), loss: 1.0}
    recipe = RecoveryRecipe(**weights)
    recovery = Recovery(make_model(1), encoded, teacher, recipe)

    def total(*samples: int) -> float:
        return float(recovery._loss(collate(encoded, samples))[0].detach())

    assert total(short, long) == pytest.approx(total(short) + total(long), rel=1e-4)
    curve = (
        Recovery(
            make_model(1),
            encoded,
            teacher,
            dataclasses.replace(recipe, sample_passes=40, batch_size=40),
        )
        .run()
        .curve
    )
    everything = sum(total(sample) for sample in range(40))
    assert curve[0].loss == pytest.approx(everything / answers.sum(), rel=1e-4)


def test_3_the_hidden_loss_does_not_depend_on_the_scale_of_the_model() -> None:
    student, teacher = torch.randn(5, 8), torch.randn(5, 8)
    values = [
        LOSSES["hidden"].per_token(
            Answers(student * scale, torch.zeros(5).long(), teacher_hidden=teacher * scale)
        )
        for scale in (1.0, 300.0)
    ]
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("criterion", ["taylor", "weight_taylor", "activation", "magnitude"])
def test_4_heads_and_channels_compete_per_parameter(criterion: str, importance: Importance) -> None:
    made = scores(importance, criterion)
    np.testing.assert_allclose(made.groups, made.groups[0, 0])
    np.testing.assert_allclose(made.channels, made.groups[0, 0])


def test_5_block_influence_survives_half_precision_and_weighs_image_and_text_apart(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    """A residual stream 300 times as large has the same cosines; its squares overflow float16."""
    features = build_teacher(make_model(0), encoded).features
    plain = measure(make_model(0), encoded, range(4), features=features)
    large = make_model(0)
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            if any(part in name for part in ("embed_tokens", "linear_2", "o_proj", "down_proj")):
                parameter.mul_(300.0)
    half = measure(large.half(), encoded, range(4), features=features)
    np.testing.assert_allclose(half.block_influence, plain.block_influence, rtol=0.02)
    for weight, modality in ((0.0, IMAGE), (1.0, TEXT)):
        layers = scores(plain, text_weight=weight).layers
        np.testing.assert_array_equal(layers, plain.block_influence[:, modality])


@pytest.mark.parametrize("share", [0.7, 0.85])
def test_6_axes_are_compared_at_equal_parameters_and_equal_updates(
    share: float, spec: BackboneSpec, unit_scores: UnitScores
) -> None:
    target = int(share * spec.total_params)
    unit = max(spec.attention_group_params, spec.channel_params)
    for name in ("width", "depth_trimmed", "depth_then_width"):
        plan = allocate(spec, unit_scores, BASELINES[name], target)
        assert target - unit < size_of(spec, plan).params <= target, name
    recipes = [RecoveryRecipe(sample_passes=96, accumulate=passes) for passes in (1, 4)]
    assert {recipe.steps for recipe in recipes} == {6}, "memory never buys a larger batch"


def test_7_data_fractions_are_seeded_nested_and_stratified() -> None:
    draw = np.random.default_rng(0)
    ring, strata = draw.random(1000), draw.integers(4, size=1000)
    five, twenty = (nested_fraction(ring, strata, f, seed=1) for f in (0.05, 0.2))
    assert set(five) < set(twenty)
    assert not np.array_equal(five, np.arange(50)), "not the head of the file"
    assert not np.array_equal(five, nested_fraction(ring, strata, 0.05, seed=2))
    np.testing.assert_array_equal(five, nested_fraction(ring, strata, 0.05, seed=1))
    share = np.bincount(strata[twenty]) / np.bincount(strata)
    np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_8_widths_are_multiples_of_what_the_hardware_likes(
    spec: BackboneSpec, unit_scores: UnitScores
) -> None:
    target = int(0.8 * spec.total_params)
    allocation = Allocation(axis="width", temperature=1.0)
    plan = allocate(spec, unit_scores, allocation, target, multiple=8)
    assert len({len(layer.channels) for layer in plan.layers}) > 1
    assert {len(layer.channels) % 8 for layer in plan.layers} == {0}


def test_9_checkpoints_hold_tensors_and_text_and_nothing_pickled(
    make_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "prove_reload", lambda *_: None)
    model = make_model(0)
    model.config.architectures = ["LlavaForConditionalGeneration"]
    plan = dense_plan(spec_of(model))
    pruned = prune(model.config, state_arrays(model), plan)
    checkpoint.save_checkpoint(pruned, build_processor(), tmp_path / "out")
    kinds = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert ".safetensors" in kinds
    assert kinds <= {".safetensors", ".json", ".py", ".md", ".jinja"}


def test_10_calibration_sees_images(make_model: Callable[..., Any], encoded: EncodedSet) -> None:
    measured = measure(make_model(0), encoded, range(4))
    for kind in (measured.gate_taylor_channels, measured.activation_groups):
        assert (kind[..., IMAGE] > 0).any()
        assert (kind[..., TEXT] > 0).any()


def test_10_families_are_rows_of_a_table_and_no_code_asks_for_a_name() -> None:
    names = {*FAMILIES, *WRAPPERS}
    for path in Path(autoprune.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                sides = {getattr(side, "value", None) for side in (node.left, *node.comparators)}
                assert not sides & names, f"{path.name}:{node.lineno} asks for a model by its name"
