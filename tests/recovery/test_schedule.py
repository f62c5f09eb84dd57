from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.schedule import learning_rate, make_optimizer, sample_order

POOL = np.array([3, 5, 8, 13, 21])


def test_every_pass_meets_every_sample_once() -> None:
    order = sample_order(POOL, seed=1, start=0, stop=15).reshape(3, 5)
    for one_pass in order:
        assert sorted(one_pass) == POOL.tolist()
    assert len({tuple(one_pass) for one_pass in order.tolist()}) > 1


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 3), (4, 6), (5, 10), (7, 14)])
def test_any_place_is_known_without_walking_there(start: int, stop: int) -> None:
    whole = sample_order(POOL, seed=1, start=0, stop=20)
    np.testing.assert_array_equal(sample_order(POOL, 1, start, stop), whole[start:stop])


def test_seeds_give_other_orders() -> None:
    assert not np.array_equal(sample_order(POOL, 1, 0, 20), sample_order(POOL, 2, 0, 20))


def test_warmup_then_cosine() -> None:
    recipe = RecoveryRecipe(sample_passes=1600, batch_size=16, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_one_step_trains_at_the_peak() -> None:
    recipe = RecoveryRecipe(sample_passes=1, batch_size=16, learning_rate=0.5)
    assert learning_rate(recipe, 0) == 0.5


def test_only_matrices_decay() -> None:
    parameters = {"w": nn.Parameter(torch.ones(2, 2)), "norm": nn.Parameter(torch.ones(2))}
    groups = make_optimizer(parameters, RecoveryRecipe(weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (1, 0.0)]
