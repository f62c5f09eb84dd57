"""The 95 % intervals hold the truth about 95 times in 100, in worlds where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from autoprune.evaluation.retention import bootstrap, paired_difference
from autoprune.evaluation.scores import TaskScore, TaskScores

CHANCE = np.array([0.1, 0.25, 0.5, 0.0])
DENSE = np.array([2.0, 1.8, 1.6, 2.2])  # latent ability, probit
PRUNED = np.array([0.9, 0.6, 0.3, 1.2])
IMAGE = 0.7  # standard deviation of how hard an image is


class World:
    """Models answer questions; images differ in difficulty, seeds in ability.

    Of a question's noise half is common to the dense and the pruned models.
    """

    def __init__(self, images: int, questions: int, seed_sd: float, interaction_sd: float) -> None:
        self.images, self.questions = images, questions
        self.seed_sd, self.interaction_sd = seed_sd, interaction_sd
        self.docs = np.array([f"d{i}" for i in range(images * questions)])
        self.of_image = np.repeat([f"i{i}" for i in range(images)], questions)

    def truth(self, ability: np.ndarray) -> float:
        spread = np.sqrt(1 + self.seed_sd**2 + self.interaction_sd**2 + IMAGE**2)
        kept = (1 - CHANCE) * norm.cdf(ability / spread)
        dense = (1 - CHANCE) * norm.cdf(DENSE / np.sqrt(1 + IMAGE**2))
        return float(kept.sum() / dense.sum())

    def draw(self, rng: np.random.Generator, *groups: tuple[np.ndarray, int]) -> list:
        shape = (len(CHANCE), self.images, self.questions)
        image = rng.normal(size=self.images) * IMAGE
        common = rng.normal(size=shape)

        def scores(latent: np.ndarray) -> TaskScores:
            guessed = rng.random(shape) < CHANCE[:, None, None]
            right = ((latent > 0) | guessed).reshape(len(CHANCE), -1).astype(float)
            return TaskScores(
                tuple(
                    TaskScore(f"t{i}", "m", float(c), float(v.mean()), self.docs, self.of_image, v)
                    for i, (c, v) in enumerate(zip(CHANCE, right, strict=True))
                )
            )

        dense = scores(DENSE[:, None, None] + image[:, None] + common)
        drawn = [dense]
        for ability, seeds in groups:
            runs = []
            for _ in range(seeds):
                own = rng.normal() * self.seed_sd
                own = own + rng.normal(size=self.images) * self.interaction_sd + image
                noise = np.sqrt(0.5) * (common + rng.normal(size=shape))
                runs.append(scores(ability[:, None, None] + own[:, None] + noise))
            drawn.append(runs)
        return drawn


@pytest.mark.parametrize(
    ("seeds", "images", "seed_sd", "interaction_sd"),
    [
        (1, 150, 0.0, 0.0),
        (3, 100, 0.0, 0.5),
        (3, 100, 0.15, 0.3),
        (3, 100, 0.4, 0.0),
        (5, 100, 0.15, 0.3),
    ],
)
def test_interval_covers(seeds: int, images: int, seed_sd: float, interaction_sd: float) -> None:
    world = World(images, 2, seed_sd, interaction_sd)
    rng = np.random.default_rng(7)
    truth, held, worlds = world.truth(PRUNED), 0, 300
    for i in range(worlds):
        dense, runs = world.draw(rng, (PRUNED, seeds))
        interval = bootstrap(runs, dense, resamples=300, seed=i)
        held += interval.low <= truth <= interval.high
    # 300 worlds: the standard error of a coverage of 0.95 is 0.013.
    assert 0.915 <= held / worlds <= 0.995


def test_difference_covers_and_ties() -> None:
    world = World(100, 2, 0.1, 0.2)
    rng = np.random.default_rng(8)
    better = PRUNED + 0.3
    truth, held, tied, worlds = world.truth(better) - world.truth(PRUNED), 0, 0, 200
    for i in range(worlds):
        dense, a, b, c = world.draw(rng, (better, 3), (PRUNED, 3), (PRUNED, 3))
        difference = paired_difference(a, b, dense, resamples=300, seed=i)
        held += difference.low <= truth <= difference.high
        tied += paired_difference(b, c, dense, resamples=300, seed=i).tied
    assert 0.91 <= held / worlds <= 1.0
    assert tied / worlds >= 0.91


def test_pairing_narrows_the_interval() -> None:
    world = World(200, 2, 0.0, 0.0)
    dense, (run,) = world.draw(np.random.default_rng(9), (PRUNED, 1))
    paired = bootstrap(run, dense)
    alone = paired_difference(run, dense, dense)
    assert alone.high - alone.low == pytest.approx(paired.high - paired.low, rel=0.2)
    assert paired_difference(run, run, dense).tied
