from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data.encoding import EncodedSet, encode
from autoprune.data.fractions import nested_fraction
from autoprune.errors import AutoPruneError
from autoprune.recovery.loop import LossPoint, Recovery, RecoveryDiverged
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.teacher import CachedTeacher, build_teacher, open_teacher
from autoprune.zoo.model import build_processor
from autoprune.zoo.splits import load_split

RECIPE = RecoveryRecipe(
    sft=0.5, kl=0.5, hidden=0.5, sample_passes=72, batch_size=8, learning_rate=3e-3, lora_rank=4
)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("scope", ["projector", "lora", "full"])
def test_loss_falls(
    scope: str, make_model: Callable[..., Any], encoded: EncodedSet, teacher: CachedTeacher
) -> None:
    recipe = dataclasses.replace(RECIPE, scope=scope, sample_passes=160)
    curve = Recovery(make_model(1), encoded, teacher, recipe).run().curve
    assert len(curve) == 20
    assert curve[-1].loss < 0.95 * curve[0].loss


@pytest.mark.parametrize(("scope", "decay"), [("lora", "linear"), ("full", "cosine")])
def test_pieces_and_reloads_equal_one_go_bit_for_bit(
    scope: str,
    decay: str,
    make_model: Callable[..., Any],
    encoded: EncodedSet,
    teacher: CachedTeacher,
) -> None:
    """Dropout is on, so that the random numbers have to go on where they were too."""
    recipe = dataclasses.replace(RECIPE, scope=scope, decay=decay, sample_passes=67)

    def start() -> Recovery:
        return Recovery(make_model(1, attention_dropout=0.2), encoded, teacher, recipe)

    whole = start()
    curve = whole.run().curve
    pieces = start()
    for share in (0.2, 0.2, 0.5):
        pieces.run(share)
    stream = io.BytesIO()
    torch.save(pieces.state_dict(), stream)
    torch.rand(7)
    stream.seek(0)
    resumed = start()
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    assert resumed.progress.steps == pieces.progress.steps
    for recovery in (pieces, resumed):
        progress = recovery.run(1.0)
        assert progress.share == 1.0
        assert progress.curve == curve
        assert_same(weights_of(recovery.finish()), weights_of(whole.finish()))


def test_run_stops_at_the_share_of_the_planned_steps(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    recipe = RecoveryRecipe(sample_passes=76, batch_size=8)
    recovery = Recovery(make_model(1), encoded, None, recipe)
    seen = [(p.steps, p.samples) for p in map(recovery.run, (0.0, 0.3, 0.1, 0.9, 1.0, 1.0))]
    assert seen == [(0, 0), (3, 24), (3, 24), (9, 72), (10, 76), (10, 76)]
    progress = recovery.progress
    assert progress.answer_tokens > progress.samples
    assert progress.unique_samples == 40
    assert progress.seconds > 0
    with pytest.raises(AutoPruneError):
        recovery.run(1.1)


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_accumulation_equals_one_big_batch(
    accumulate: int, make_model: Callable[..., Any], rows: EncodedSet
) -> None:
    """On ragged answers: the passes of an update hold different counts of answer tokens."""
    recipe = RecoveryRecipe(sft=1.0, sample_passes=24, batch_size=8, learning_rate=1e-3)
    recoveries = [
        Recovery(make_model(1), rows, None, dataclasses.replace(recipe, accumulate=passes))
        for passes in (1, accumulate)
    ]
    curves = [recovery.run().curve for recovery in recoveries]
    for whole, split_point in zip(*curves, strict=True):
        assert split_point.loss == pytest.approx(whole.loss, rel=1e-4)
        assert split_point.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-3)


def test_checkpointing_changes_nothing(
    make_model: Callable[..., Any], encoded: EncodedSet, teacher: CachedTeacher
) -> None:
    curves = [
        Recovery(make_model(1), encoded, teacher, dataclasses.replace(RECIPE, checkpointing=on))
        .run()
        .curve
        for on in (False, True)
    ]
    for plain, checkpointed in zip(*curves, strict=True):
        assert checkpointed.loss == pytest.approx(plain.loss, rel=1e-5)


def test_packed_questions_equal_questions_one_by_one(
    make_model: Callable[..., Any], rows: EncodedSet
) -> None:
    packed = encode(load_split("train", 12), build_processor())
    firsts = []
    for samples in (packed, rows):
        count = len(samples)
        recipe = RecoveryRecipe(sample_passes=count, batch_size=count, warmup=0.0)
        firsts.append(Recovery(make_model(1), samples, None, recipe).run().curve[0])
    assert firsts[0].loss == pytest.approx(firsts[1].loss, rel=1e-5)
    assert firsts[0].gradient_norm == pytest.approx(firsts[1].gradient_norm, rel=1e-4)


def test_fractions_are_nested_and_count_unique_samples(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    pools = {}
    for fraction in (0.05, 0.2, 1.0):
        recipe = RecoveryRecipe(data_fraction=fraction, sample_passes=64, seed=3)
        recovery = Recovery(make_model(1), encoded, None, recipe)
        pools[fraction] = set(recovery.pool.tolist())
        expected = nested_fraction(encoded.ring, encoded.strata, fraction, 3)
        np.testing.assert_array_equal(recovery.pool, expected)
    assert pools[0.05] < pools[0.2] < pools[1.0]
    assert [len(pools[f]) for f in (0.05, 0.2, 1.0)] == [2, 8, 40]
    few = Recovery(
        make_model(1), encoded, None, RecoveryRecipe(data_fraction=0.05, sample_passes=64)
    ).run()
    assert (few.samples, few.unique_samples) == (64, 2)


def test_random_numbers_of_the_process_neither_matter_nor_change(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    recipe = RecoveryRecipe(scope="lora", lora_rank=4, sample_passes=24, batch_size=8)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        recovery = Recovery(make_model(1, attention_dropout=0.2), encoded, None, recipe)
        recovery.run()
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights_of(recovery.finish()))
    assert_same(*results)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_divergence_names_the_update_and_the_rate(
    broken: str, make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    model = make_model(1)
    recovery = Recovery(model, encoded, None, RecoveryRecipe(sample_passes=64, learning_rate=1e-3))
    recovery.run(0.5)
    if broken == "loss":
        with torch.no_grad():
            model.get_decoder().norm.weight[0] = float("inf")
    else:
        model.get_decoder().norm.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(RecoveryDiverged, match=r"update 3 of 4 .*learning rate 0\.00"):
        recovery.run()


def test_an_interrupt_passes_through_and_training_goes_on(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    def interrupt(point: LossPoint) -> None:
        if point.step == 2 and not told:
            told.append(point)
            raise KeyboardInterrupt

    told: list[LossPoint] = []
    recipe = RecoveryRecipe(sample_passes=64)
    model = make_model(1)
    recovery = Recovery(model, encoded, None, recipe, on_step=interrupt)
    with pytest.raises(KeyboardInterrupt):
        recovery.run()
    assert not model.training
    assert recovery.progress.steps == 2
    whole = Recovery(make_model(1), encoded, None, recipe)
    assert recovery.run().curve == whole.run().curve
    assert_same(weights_of(recovery.finish()), weights_of(whole.finish()))


def test_scope_none_has_nothing_to_do(make_model: Callable[..., Any], encoded: EncodedSet) -> None:
    recovery = Recovery(make_model(1), encoded, None, RecoveryRecipe(scope="none", kl=1.0))
    progress = recovery.run()
    assert (progress.share, progress.steps, progress.samples) == (1.0, 0, 0)
    recovery.load_state_dict(recovery.state_dict())
    assert_same(weights_of(recovery.finish()), weights_of(make_model(1)))


def test_a_state_of_something_else_is_refused(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    recipe = RecoveryRecipe(sample_passes=16)
    state = Recovery(make_model(1), encoded, None, recipe).state_dict()
    other = dataclasses.replace(recipe, seed=1)
    with pytest.raises(AutoPruneError, match="another recipe"):
        Recovery(make_model(1), encoded, None, other).load_state_dict(state)
    with pytest.raises(AutoPruneError, match="another plan"):
        Recovery(make_model(1, intermediate_size=40), encoded, None, recipe).load_state_dict(state)


def test_a_mix_with_a_teacher_needs_one(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    with pytest.raises(AutoPruneError, match="needs a teacher"):
        Recovery(make_model(1), encoded, None, RECIPE)


def test_a_finished_recovery_is_over_and_the_model_as_it_was_set(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    model = make_model(1)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    recovery = Recovery(
        model, encoded, None, RecoveryRecipe(scope="lora", lora_rank=4, sample_passes=8)
    )
    recovery.run()
    assert recovery.finish() is recovery.finish() is model
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    with pytest.raises(AutoPruneError, match="finished"):
        recovery.run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scope", ["projector", "lora", "full"])
def test_bfloat16_where_the_device_has_it(
    scope: str,
    dtype: torch.dtype,
    make_model: Callable[..., Any],
    encoded: EncodedSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU stands in for the device: parameters train in float32, matrices meet in bfloat16."""
    monkeypatch.setattr("autoprune.recovery.teacher.autocast_dtype", lambda _: torch.bfloat16)
    teacher = open_teacher(build_teacher(make_model().to(dtype), encoded))
    recipe = dataclasses.replace(RECIPE, scope=scope, sample_passes=80)
    recovery = Recovery(make_model(1).to(dtype), encoded, teacher, recipe)
    curve = recovery.run().curve
    assert curve[-1].loss < 0.98 * curve[0].loss
    monkeypatch.undo()
    exact = Recovery(make_model(1), encoded, teacher, recipe).run(0.1).curve
    assert curve[0].loss == pytest.approx(exact[0].loss, rel=0.02)
    assert curve[0].loss != exact[0].loss
    assert {p.dtype for p in recovery.finish().parameters()} == {dtype}
