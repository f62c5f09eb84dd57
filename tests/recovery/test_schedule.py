from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.schedule import SampleOrder, learning_rate, make_optimizer

POOL = np.arange(100, 140)
LENGTHS = np.random.default_rng(0).integers(5, 50, size=200)


def order_of(seed: int = 1, batch_size: int = 8, size: int = 40) -> SampleOrder:
    return SampleOrder(POOL[:size], LENGTHS, seed, batch_size)


@pytest.mark.parametrize(("size", "batch_size"), [(40, 8), (37, 8), (5, 8), (40, 1), (1, 4)])
def test_every_pass_meets_every_sample_once(size: int, batch_size: int) -> None:
    order = order_of(batch_size=batch_size, size=size).between(0, 3 * size).reshape(3, size)
    for one_pass in order:
        assert sorted(one_pass) == POOL[:size].tolist()
    assert size == 1 or len({tuple(one_pass) for one_pass in order.tolist()}) > 1


@pytest.mark.parametrize("size", [40, 37, 5])
@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 3), (4, 6), (5, 10), (39, 120)])
def test_any_place_is_known_without_walking_there(size: int, start: int, stop: int) -> None:
    whole = order_of(size=size).between(0, 120)
    np.testing.assert_array_equal(order_of(size=size).between(start, stop), whole[start:stop])


def test_seeds_give_other_orders() -> None:
    assert not np.array_equal(order_of(1).between(0, 40), order_of(2).between(0, 40))


@pytest.mark.parametrize("size", [40, 37])
def test_samples_of_like_length_share_an_update(size: int) -> None:
    def spread(order: np.ndarray) -> float:
        return float(np.mean([np.ptp(LENGTHS[u]) for u in order[:72].reshape(-1, 8)]))

    sorted_order = order_of(size=size).between(0, 80)
    shuffled = np.random.default_rng(1).permutation(sorted_order)
    assert spread(sorted_order) < 0.6 * spread(shuffled)
    lengths = [LENGTHS[u].mean() for u in sorted_order[:32].reshape(-1, 8)]
    assert lengths not in (sorted(lengths), sorted(lengths)[::-1]), "updates are shuffled again"


def test_warmup_then_cosine() -> None:
    recipe = RecoveryRecipe(sample_passes=1600, batch_size=16, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_a_linear_fall() -> None:
    recipe = RecoveryRecipe(
        sample_passes=1600, batch_size=16, warmup=0.1, learning_rate=1.0, decay="linear"
    )
    rates = [learning_rate(recipe, step) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], 1 - np.arange(90) / 90)


def test_one_step_trains_at_the_peak() -> None:
    recipe = RecoveryRecipe(sample_passes=1, batch_size=16, learning_rate=0.5)
    assert learning_rate(recipe, 0) == 0.5


def test_only_matrices_decay() -> None:
    parameters = {"w": nn.Parameter(torch.ones(2, 2)), "norm": nn.Parameter(torch.ones(2))}
    groups = make_optimizer(parameters, RecoveryRecipe(weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (1, 0.0)]
