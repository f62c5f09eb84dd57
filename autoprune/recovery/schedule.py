"""Order of samples, learning rate and optimiser: functions of the recipe and the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from autoprune.recovery.recipe import RecoveryRecipe

BETAS = (0.9, 0.999)


def sample_order(pool: np.ndarray, seed: int, start: int, stop: int) -> np.ndarray:
    """Return the samples at places ``start`` to ``stop`` of an endless seeded order.

    The order is one permutation of ``pool`` after another, each drawn from (seed, pass), so
    that any place is known without walking there and every sample is met once a pass.
    """
    size = len(pool)
    passes = [
        pool[_permutation(size, seed, number)] for number in range(start // size, -(-stop // size))
    ]
    if not passes:
        return pool[:0]
    offset = start // size * size
    order: np.ndarray = np.concatenate(passes)[start - offset : stop - offset]
    return order


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, number: int) -> np.ndarray:
    order = np.random.default_rng((seed, number)).permutation(size)
    order.setflags(write=False)
    return order


def learning_rate(recipe: RecoveryRecipe, step: int) -> float:
    """Return the learning rate of update ``step`` (from 0): linear warmup, then cosine to 0."""
    warm = math.ceil(recipe.warmup * recipe.steps)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    part = (step - warm) / max(1, recipe.steps - warm)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * part))


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], recipe: RecoveryRecipe
) -> torch.optim.AdamW:
    """Return AdamW over ``parameters``; only matrices decay, norms and biases do not."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]] or [{"params": [nn.Parameter()]}],
        lr=recipe.learning_rate,
        betas=BETAS,
        fused=True,
    )
