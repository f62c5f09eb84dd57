"""The 95 % intervals hold the truth about 95 times in 100, in worlds where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from autoprune.evaluation.retention import bootstrap, paired_difference, retention
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.evaluation.seeds import seed_prior

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

    def draw(
        self,
        rng: np.random.Generator,
        *groups: tuple[np.ndarray, int],
        seed_sds: Sequence[float] | np.ndarray | None = None,
    ) -> list:
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
        sds = [self.seed_sd] * len(groups) if seed_sds is None else seed_sds
        for (ability, seeds), seed_sd in zip(groups, sds, strict=True):
            runs = []
            for _ in range(seeds):
                own = rng.normal() * seed_sd
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


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_prior_over_configurations_covers_and_narrows(spread: float) -> None:
    """Eight configurations of three seeds, whose seeds scatter alike or not (log-normally)."""
    rng = np.random.default_rng(11)
    abilities = [PRUNED + shift for shift in np.linspace(-0.3, 0.6, 8)]
    held, plain_held, ratio, rounds = 0, 0, [], 20
    for i in range(rounds):
        world = World(100, 2, 0.0, 0.2)
        scatter = 0.15 * np.exp(spread * rng.normal(size=8))
        dense, *groups = world.draw(rng, *[(a, 3) for a in abilities], seed_sds=scatter)
        prior = seed_prior([[retention(s, dense).value for s in runs] for runs in groups])
        for ability, sd, runs in zip(abilities, scatter, groups, strict=True):
            world.seed_sd = float(sd)
            truth = world.truth(ability)
            narrow = bootstrap(runs, dense, resamples=300, seed=i, prior=prior)
            wide = bootstrap(runs, dense, resamples=300, seed=i)
            held += narrow.low <= truth <= narrow.high
            plain_held += wide.low <= truth <= wide.high
            ratio.append((narrow.high - narrow.low) / (wide.high - wide.low))
    assert held / (8 * rounds) >= 0.9
    assert plain_held / (8 * rounds) >= 0.92
    assert np.mean(ratio) < 0.85


def test_prior_of_equal_variances_pools_them() -> None:
    rng = np.random.default_rng(1)
    prior = seed_prior([0.5 + 0.02 * rng.normal(size=3) for _ in range(400)])
    assert prior is not None
    assert prior.variance**0.5 == pytest.approx(0.02, rel=0.05)
    assert prior.freedom > 30
    variance, freedom = prior.moderate(0.01**2, 2.0)
    assert variance**0.5 == pytest.approx(0.02, rel=0.06)
    assert freedom > 30


def test_prior_finds_the_spread_of_variances() -> None:
    """True variances from a scaled inverse chi-square of 6 degrees of freedom."""
    rng = np.random.default_rng(2)
    sds = (0.02**2 * 6 / rng.chisquare(6, size=3000)) ** 0.5
    prior = seed_prior([sd * rng.normal(size=4) for sd in sds])
    assert prior is not None
    assert prior.freedom == pytest.approx(6, rel=0.2)
    assert prior.variance**0.5 == pytest.approx(0.02, rel=0.05)


def test_no_prior_from_too_little() -> None:
    assert seed_prior([[0.1, 0.2], [0.3, 0.4]]) is None
    assert seed_prior([[0.1], [0.2], [0.3], [0.4]]) is None
    assert seed_prior([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]) is None


def test_pairing_narrows_the_interval() -> None:
    world = World(200, 2, 0.0, 0.0)
    dense, (run,) = world.draw(np.random.default_rng(9), (PRUNED, 1))
    paired = bootstrap(run, dense)
    alone = paired_difference(run, dense, dense)
    assert alone.high - alone.low == pytest.approx(paired.high - paired.low, rel=0.2)
    assert paired_difference(run, run, dense).tied
