"""Retained ability against the dense model: the figure, and how sure it is.

Retention is R = sum(s - chance) / sum(dense - chance) over tasks, on the same documents, not
clipped; the paper's ratio sum(s) / sum(dense) stands beside it as ``raw``. Questions of one image
are not independent, so images are what is resampled (the cluster bootstrap, Field & Welsh 2007),
with the same resample for every task, for the candidate and for the dense model (paired).

Retraining with another seed gives another model. A bootstrap over three seeds is far too narrow
(its variance is 2/3 of the sample's, and its tails end at the extremes), so the seeds' part is a
Student interval over the seeds' retentions, and the images' part a percentile bootstrap of their
mean. The two are put together by MOVER (Zou & Donner 2008, doi:10.1002/sim.3095): for the estimate
m with limits (l1, u1) and (l2, u2) of its two parts,
low = m - sqrt((m - l1)^2 + (m - l2)^2), and high alike. All seeds see the same images, so the
scatter between seeds already holds the seed-by-image interaction (a crossed design, Owen 2007);
it is taken out of the images' part. In simulation the 95 % interval covers 95-98 % with 2-5 seeds,
where Student over seeds alone covers 82-94 % and a bootstrap over seeds and images 78-97 %
(tests/evaluation/test_coverage.py checks it).

With three seeds Student has two degrees of freedom, and 4.3 standard errors are a wide interval.
Where several configurations were run, :func:`autoprune.evaluation.seeds.seed_prior` learns from
all of them how far seeds scatter, and the intervals narrow by what that is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.evaluation.scores import TaskScores, require_paired
from autoprune.evaluation.seeds import SeedPrior, combine, limits

MARGIN = 0.1
"""A task whose dense score is nearer to chance than this says nothing about what is kept."""

_CHUNK = 4_000_000  # resampled image indices held at once, 32 MB


@dataclass(frozen=True)
class Retention:
    """What a candidate keeps of the dense model; 1.0 is all of it.

    Attributes:
        value: chance-corrected, over the tasks that are not left out.
        raw: the plain ratio of sums of scores, over all tasks.
        per_task: chance-corrected retention of each task that is not left out.
        left_out: tasks whose dense score is within ``MARGIN`` of chance.
    """

    value: float
    raw: float
    per_task: dict[str, float]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence limits.

    Attributes:
        mean: over seeds.
        low: lower limit.
        high: upper limit.
        level: confidence, 0.95 by default.
        seeds: how many models stand behind the mean; with one, the interval is about that model
            and not about the next training.
        images: how many images were resampled.
    """

    mean: float
    low: float
    high: float
    level: float
    seeds: int
    images: int


@dataclass(frozen=True)
class Difference(Interval):
    """Retention of one configuration minus that of another, on the same images."""

    @property
    def tied(self) -> bool:
        """Whether the interval holds zero."""
        return self.low <= 0.0 <= self.high


def retention(candidate: TaskScores, dense: TaskScores, *, margin: float = MARGIN) -> Retention:
    """Return how much of ``dense`` the ``candidate`` retains.

    Raises:
        AutoPruneError: tasks or documents differ, or no task is above chance when dense.
    """
    require_paired(dense, candidate)
    kept, left_out = kept_tasks(dense, margin=margin)
    above = {name: dense[name].score - dense[name].chance for name in kept}
    gained = {name: candidate[name].score - dense[name].chance for name in kept}
    total = sum(task.score for task in dense.tasks)
    return Retention(
        value=sum(gained.values()) / sum(above.values()),
        raw=sum(task.score for task in candidate.tasks) / total,
        per_task={name: gained[name] / above[name] for name in kept},
        left_out=left_out,
    )


def kept_tasks(
    dense: TaskScores, *, margin: float = MARGIN
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tasks that count and those left out, by the dense model's scores alone.

    Raises:
        AutoPruneError: no task counts.
    """
    kept = tuple(t.name for t in dense.tasks if t.score - t.chance > margin)
    if not kept:
        best = max(dense.tasks, key=lambda t: t.score - t.chance)
        raise AutoPruneError(
            f"the dense model is not {margin:g} above chance on any of the {len(dense.tasks)} "
            f"tasks (best: {best.name} {best.score:.3f}, guessing {best.chance:.3f}): "
            "choose tasks that it can do, or another model"
        )
    return kept, tuple(t.name for t in dense.tasks if t.name not in kept)


def bootstrap(
    candidates: TaskScores | Sequence[TaskScores],
    dense: TaskScores,
    *,
    task: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    margin: float = MARGIN,
    prior: SeedPrior | None = None,
) -> Interval:
    """Return mean retention over ``candidates`` (one a seed) with its interval.

    Args:
        candidates: scores of the same configuration, trained with different seeds.
        dense: the dense model on the same documents.
        task: retention of this task alone, instead of all.
        level: confidence.
        resamples: bootstrap resamples of images.
        seed: of the resampling; equal seeds give equal intervals.
        margin: see :func:`retention`; tasks are chosen once, not in each resample.
        prior: how far seeds scatter in configurations like this one.

    Raises:
        AutoPruneError: documents differ, a task has no per-document values, or it is left out.
    """
    more = _Options(task, level, resamples, seed, margin, prior)
    return _interval([_as_runs(candidates)], [1.0], dense, more)


def paired_difference(
    a: TaskScores | Sequence[TaskScores],
    b: TaskScores | Sequence[TaskScores],
    dense: TaskScores,
    *,
    task: str | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    margin: float = MARGIN,
    prior: SeedPrior | None = None,
) -> Difference:
    """Return retention of ``a`` minus retention of ``b`` with its interval.

    Both see the same resampled images. Their seeds are taken as independent, with Satterthwaite's
    degrees of freedom; a side with one seed adds no seed variance, so compare several seeds with
    several.

    Raises:
        AutoPruneError: as :func:`bootstrap`.
    """
    more = _Options(task, level, resamples, seed, margin, prior)
    found = _interval([_as_runs(a), _as_runs(b)], [1.0, -1.0], dense, more)
    return Difference(found.mean, found.low, found.high, found.level, found.seeds, found.images)


def weighted_sum(
    groups: Sequence[Sequence[TaskScores]],
    weights: Sequence[float],
    dense: TaskScores,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    margin: float = MARGIN,
    prior: SeedPrior | None = None,
) -> Interval:
    """Return the sum of ``weights`` times mean retentions, with its interval.

    Such sums are the area under a front (a weight is the width of a point's step) and the
    difference of two areas. All see the same resampled images, so what an image does to all of
    them alike counts once, with the sum of the weights.

    Args:
        groups: of each configuration its scores, one a seed.
        weights: of each configuration.
        dense, level, resamples, seed, margin, prior: as in :func:`bootstrap`.

    Returns:
        The interval; its ``seeds`` are the fewest of a configuration.

    Raises:
        AutoPruneError: as :func:`bootstrap`; or there is no configuration.
    """
    more = _Options(None, level, resamples, seed, margin, prior)
    return _interval([_as_runs(group) for group in groups], weights, dense, more)


class _Options(NamedTuple):
    """What all intervals can be asked for; see :func:`bootstrap`."""

    task: str | None
    level: float
    resamples: int
    seed: int
    margin: float
    prior: SeedPrior | None


def _interval(
    groups: Sequence[list[TaskScores]],
    weights: Sequence[float],
    dense: TaskScores,
    more: _Options,
) -> Interval:
    sums = _sums(
        _as_runs([run for group in groups for run in group]), dense, more.task, more.margin
    )
    point, draws = _draws(sums, more.resamples, more.seed)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    pairs = zip(np.split(point, ends), np.split(draws, ends, axis=1), strict=True)
    parts = combine(list(pairs), weights, more.prior)
    low, high = limits(parts, more.level)
    seeds = min(len(group) for group in groups)
    return Interval(parts.mean, low, high, more.level, seeds, sums.images)


# --- images -------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Per image what a retention is computed from.

    Attributes:
        totals: ``float64 [images, models, tasks]``, summed values; the last model is the dense.
        counts: ``float64 [images, tasks]``, documents.
        chance: ``float64 [tasks]``.
    """

    totals: np.ndarray
    counts: np.ndarray
    chance: np.ndarray

    @property
    def images(self) -> int:
        return len(self.totals)


def _as_runs(scores: TaskScores | Sequence[TaskScores]) -> list[TaskScores]:
    runs = [scores] if isinstance(scores, TaskScores) else list(scores)
    if not runs:
        raise AutoPruneError("no scores to compare with the dense model: give at least one seed's")
    return runs


def _sums(runs: list[TaskScores], dense: TaskScores, task: str | None, margin: float) -> _Sums:
    require_paired(dense, *runs)
    kept, left_out = kept_tasks(dense, margin=margin)
    if task is not None:
        if task not in kept:
            why = "is within chance when dense" if task in left_out else "was not evaluated"
            raise AutoPruneError(f"task {task!r} {why}: choose one of {', '.join(kept)}")
        kept = (task,)
    models = [*runs, dense]
    names, image = np.unique(
        np.concatenate([dense[name].images for name in kept]), return_inverse=True
    )
    totals = np.zeros((len(names), len(models), len(kept)))
    counts = np.zeros((len(names), len(kept)))
    start = 0
    for t, name in enumerate(kept):
        rows = image[start : start + len(dense[name].docs)]
        start += len(rows)
        counts[:, t] = np.bincount(rows, minlength=len(names))
        for m, model in enumerate(models):
            values = model[name].parts
            if values is None:
                raise AutoPruneError(
                    f"task {name!r} has no per-document values, so no interval: leave it out"
                )
            totals[:, m, t] = np.bincount(rows, weights=values, minlength=len(names))
    return _Sums(totals, counts, np.array([dense[name].chance for name in kept]))


def _retentions(totals: np.ndarray, counts: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """``[..., models, tasks]`` and ``[..., tasks]`` -> retention ``[..., models - 1]``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = totals / counts[..., None, :]
    # A task that a resample missed altogether says nothing in that resample.
    above = np.where(counts[..., None, :] > 0, means - chance, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return above[..., :-1] / above[..., -1:]


def _draws(sums: _Sums, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return retentions ``[models]`` and their bootstrap draws ``[resamples, models]``."""
    point = _retentions(sums.totals.sum(axis=0), sums.counts.sum(axis=0), sums.chance)
    rng = np.random.default_rng(seed)
    if (n := sums.images) < 2:
        raise AutoPruneError(f"no interval from {n} image: evaluate on more")
    shape = sums.totals.shape[1:]
    flat = np.concatenate([sums.totals.reshape(n, -1), sums.counts], axis=1)
    pieces = []
    for start in range(0, resamples, step := max(1, _CHUNK // n)):
        rows = min(step, resamples - start)
        picks = rng.integers(0, n, size=(rows, n))
        picks += np.arange(rows)[:, None] * n
        weights = np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n)
        drawn = weights.astype(np.float64) @ flat
        split = shape[0] * shape[1]
        pieces.append(
            _retentions(drawn[:, :split].reshape(rows, *shape), drawn[:, split:], sums.chance)
        )
    draws = np.concatenate(pieces)
    # A resample of few images may leave the dense model at chance: no ratio there.
    return point, draws[np.isfinite(draws).all(axis=1)]
