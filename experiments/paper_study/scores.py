"""Rows as configurations: their scores by seed, mixes of them, and the scatter between seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autoprune.evaluation.retention import retention
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior, seed_prior
from experiments.cells import Row, read_rows, unpack_scores
from experiments.paper_study.grid import NONE, SEEDS

LEAST_SEEDS = 2
"""Fewer say nothing of the next training."""


class Config(NamedTuple):
    """One configuration of the grid."""

    axis: str
    size: float
    recovery: str
    data: float
    variant: str


Scores = Mapping[Config, Mapping[int, TaskScores]]
"""Configuration -> seed -> answers on the report split."""

Weighted = Sequence[tuple[float, Config]]
"""A sum of configurations, each with its weight."""


def read(rows: Path, dense: Path) -> tuple[dict[str, Row], Scores, TaskScores]:
    """Return the rows of the report, their answers by configuration and seed, and the dense ones.

    Raises:
        ValueError: if a recovery of the report diverged; it has no answers to analyse.
    """
    whole = TaskScores.from_dict(json.loads(dense.read_text()))
    found = {key: row for key, row in read_rows(rows).items() if row["split"] == "report"}
    scores: dict[Config, dict[int, TaskScores]] = {}
    for row in found.values():
        if "diverged" in row:
            raise ValueError(f"{row['key']}: {row['diverged']}")
        at = Config(*(row[name] for name in Config._fields))
        scores.setdefault(at, {})[row["seed"]] = unpack_scores(row["answers"], whole)
    return found, scores, whole


def seeds_of(scores: Scores, configs: Iterable[Config]) -> tuple[int, ...]:
    """Return the seeds that all of the configurations have; what is not trained has them all."""
    trained = [set(scores.get(c, {})) for c in configs if c.recovery != NONE]
    return tuple(seed for seed in SEEDS if all(seed in have for have in trained))


def complete(scores: Scores, config: Config) -> bool:
    """Whether a configuration has enough seeds for an interval, or needs none."""
    if config.recovery == NONE:
        return config in scores
    return len(scores.get(config, {})) >= LEAST_SEEDS


def mixed(parts: Iterable[tuple[float, TaskScores]]) -> TaskScores:
    """Return answers whose retention is the weighted sum of the parts' retentions.

    Retention is linear in what a model scores above chance, so sums and means of configurations,
    and shares of one, go through the same paired bootstrap as single models.
    """
    pairs = list(parts)
    tasks = []
    for place, first in enumerate(pairs[0][1].tasks):
        above = [(w, np.asarray(s.tasks[place].values)) for w, s in pairs]
        values = first.chance + np.sum([w * (v - first.chance) for w, v in above], axis=0)
        tasks.append(replace(first, values=values, score=float(np.mean(values))))
    return TaskScores(tuple(tasks))


def by_seed(scores: Scores, sum_of: Weighted) -> list[TaskScores]:
    """Return the weighted sum, one element a seed that all of its parts have."""
    configs = [config for _, config in sum_of]
    trained = any(config.recovery != NONE for config in configs)
    return [
        mixed((w, scores[c][SEEDS[0] if c.recovery == NONE else seed]) for w, c in sum_of)
        for seed in (seeds_of(scores, configs) if trained else SEEDS[:1])
    ]


def scatter(groups: Iterable[Sequence[TaskScores]], dense: TaskScores) -> SeedPrior | None:
    """Return what the groups, each of several seeds, tell about the scatter between seeds."""
    return seed_prior([[retention(s, dense).value for s in group] for group in groups])


def mean_of(configs: Sequence[Config], factor: float = 1.0) -> Weighted:
    """Return the mean of configurations, times ``factor``."""
    return [(factor / len(configs), config) for config in configs]
