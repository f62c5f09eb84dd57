"""Order of samples, learning rate and optimiser: functions of the recipe and the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from autoprune.recovery.recipe import RecoveryRecipe

BETAS = (0.9, 0.999)

# Updates over which samples are sorted by length.
WINDOW = 16


class SampleOrder:
    """An endless seeded order of samples: one pass over the pool after another.

    Every sample is met once a pass. Each pass is shuffled from (seed, pass); then, within
    stretches of :data:`WINDOW` updates, samples of like length are put into one update, which
    pads less, and the updates are shuffled again. Any place is known without walking there, so
    a step number is all that has to be saved.

    Args:
        pool: the samples.
        lengths: tokens of each sample of the whole set, indexed by what ``pool`` holds.
        seed: of the order.
        batch_size: samples of one update.
    """

    def __init__(self, pool: np.ndarray, lengths: np.ndarray, seed: int, batch_size: int) -> None:
        self.pool = pool
        self.lengths = lengths
        self.seed = seed
        self.batch_size = batch_size
        self._known: dict[int, np.ndarray] = {}

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the samples at places ``start`` to ``stop``."""
        size = len(self.pool)
        numbers = range(start // size, -(-stop // size))
        passes = [self._pass(number) for number in numbers]
        if not passes:
            return self.pool[:0]
        offset = numbers.start * size
        return np.concatenate(passes)[start - offset : stop - offset]

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._known:
            if len(self._known) > 1:
                self._known.clear()
            self._known[number] = self._drawn(number)
        return self._known[number]

    def _drawn(self, number: int) -> np.ndarray:
        """Draw a pass; its first samples may complete the update that the last pass began."""
        dice = np.random.default_rng((self.seed, number))
        order = dice.permutation(self.pool)
        head = -number * len(order) % self.batch_size
        updates = [order[:head]]
        for stretch in _cut(order[head:], WINDOW * self.batch_size):
            by_length = stretch[np.argsort(self.lengths[stretch], kind="stable")]
            alike = _cut(by_length, self.batch_size)
            # A last update that is not full stays last, or it would shift those behind it.
            whole = [update for update in alike if len(update) == self.batch_size]
            updates += [whole[place] for place in dice.permutation(len(whole))]
            updates += alike[len(whole) :]
        return np.concatenate(updates)


def _cut(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    "linear": lambda part: 1.0 - part,
}
"""Share of the peak learning rate, by the share of the updates behind the warmup."""


def learning_rate(recipe: RecoveryRecipe, step: int) -> float:
    """Return the learning rate of update ``step`` (from 0): linear warmup, then a fall to 0."""
    warm = math.ceil(recipe.warmup * recipe.steps)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    part = (step - warm) / max(1, recipe.steps - warm)
    return recipe.learning_rate * DECAYS[recipe.decay](part)


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
