from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data.encoding import EncodedSet, collate
from autoprune.errors import AutoPruneError
from autoprune.recovery.loop import Recovery
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.teacher import (
    CachedTeacher,
    Forecast,
    OnlineTeacher,
    TeacherCache,
    build_teacher,
    open_teacher,
)

MIX = RecoveryRecipe(
    sft=1.0, kl=0.5, reverse_kl=0.5, hidden=1.0, sample_passes=48, learning_rate=1e-3
)


def test_cached_logits_are_the_dense_models(
    make_model: Callable[..., Any], encoded: EncodedSet, teacher: CachedTeacher
) -> None:
    batch = collate(encoded, [7, 2, 31])
    with torch.no_grad():
        full = make_model()(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        ).logits
    expected = full[batch.answer_index.rows, batch.answer_index.cols]
    torch.testing.assert_close(
        teacher.logits(teacher.hidden(batch)), expected, rtol=5e-3, atol=5e-3
    )


def test_forecast_is_what_is_kept(cache: TeacherCache, encoded: EncodedSet) -> None:
    assert cache.features is not None
    assert cache.hidden is not None
    assert cache.features.nbytes == cache.forecast.features
    assert cache.hidden.nbytes == cache.forecast.hidden == encoded.num_answer_tokens * 32 * 2
    assert cache.features.dtype == cache.hidden.dtype == np.float16
    assert cache.nbytes >= cache.forecast.features + cache.forecast.hidden


@pytest.mark.parametrize(
    ("limit", "features", "hidden"),
    [
        (None, True, True),
        (30, True, True),
        (29, False, True),
        (10, False, True),
        (9, False, False),
        (0, False, False),
    ],
)
def test_what_fits_the_limit_is_kept(limit: int | None, features: bool, hidden: bool) -> None:
    assert Forecast(features=20, hidden=10).fitting(limit) == (features, hidden)


@pytest.mark.parametrize("part", ["none", "hidden"])
def test_online_and_cached_give_equal_losses(
    part: str, make_model: Callable[..., Any], encoded: EncodedSet, cache: TeacherCache
) -> None:
    limit = {"none": 0, "hidden": cache.forecast.hidden}[part]
    small = build_teacher(make_model(), encoded, limit)
    assert small.features is None
    assert (small.hidden is None) == (part == "none")
    online = open_teacher(small, dense=make_model)
    assert isinstance(online, OnlineTeacher) == (part == "none")
    losses = []
    for teacher in (CachedTeacher(cache), online):
        student = make_model(1)
        tower = make_model().model.vision_tower.state_dict()
        student.model.vision_tower.load_state_dict(tower)
        curve = Recovery(student, encoded, teacher, MIX).run().curve
        losses.append([[point.loss, *point.losses.values()] for point in curve])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)


def test_a_cache_without_states_serves_sft_and_says_what_it_cannot(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    teacher = open_teacher(build_teacher(make_model(), encoded, 0))
    sft = RecoveryRecipe(sample_passes=16)
    assert np.isfinite(Recovery(make_model(1), encoded, teacher, sft).run().loss)
    with pytest.raises(AutoPruneError, match="--cache-limit"):
        Recovery(make_model(1), encoded, teacher, MIX).run()


def test_kept_features_need_no_pixels(
    make_model: Callable[..., Any], encoded: EncodedSet, teacher: CachedTeacher
) -> None:
    bare = encoded.without_pixels()
    curves = [Recovery(make_model(1), e, teacher, MIX).run().curve for e in (encoded, bare)]
    assert curves[0] == curves[1]
    with pytest.raises(AutoPruneError, match="neither pixels nor kept features"):
        Recovery(make_model(1), bare, None, RecoveryRecipe())


def test_shared_arrays_are_only_read(
    make_model: Callable[..., Any], encoded: EncodedSet, cache: TeacherCache
) -> None:
    arrays = [a for a in (cache.features, cache.hidden, cache.head_weight) if a is not None]
    try:
        for array in arrays:
            array.setflags(write=False)
        Recovery(make_model(1), encoded, CachedTeacher(cache), MIX).run()
    finally:
        for array in arrays:
            array.setflags(write=True)


def test_states_beyond_half_precision_are_not_kept(
    make_model: Callable[..., Any], encoded: EncodedSet
) -> None:
    model = make_model()
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(1e6)
    assert build_teacher(model, encoded).hidden is None


def test_progress_is_told(make_model: Callable[..., Any], encoded: EncodedSet) -> None:
    told: list[tuple[int, int]] = []
    build_teacher(make_model(), encoded, batch_size=16, on_progress=lambda *now: told.append(now))
    assert told == [(16, 40), (32, 40), (40, 40)]
