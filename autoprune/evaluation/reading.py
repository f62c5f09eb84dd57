"""One task's score read from what lmms-eval returns, and what each document adds to it.

Most scores are means over documents. Where one is not (F1, pairs of questions, sums of categories)
its documents have no values of their own; how far each moves the score is estimated by a
delete-a-group jackknife (Shao & Wu 1989, doi:10.1214/aos/1176347263), so that intervals can be
drawn over images all the same.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.evaluation.scores import TaskScore
from autoprune.evaluation.tasks import TaskSpec

GROUPS = 64
"""Groups of images that are left out in turn."""

_EQUAL = 1e-6

Logged = Sequence[Mapping[str, Any]]


def read_score(
    spec: TaskSpec,
    results: Mapping[str, Any],
    docs: Sequence[str],
    images: Sequence[str],
    task: Any = None,
    scratch: str | None = None,
) -> TaskScore:
    """Read one task's score and what each document adds to it.

    Args:
        spec: which metrics, and their maximum.
        results: what lmms-eval returned, with samples.
        docs: name of each document.
        images: name of each document's image.
        task: lmms-eval's object, which computes a score of some documents; None does without.
        scratch: directory that aggregations may write to.

    Raises:
        AutoPruneError: it is not exactly one finite number a metric, within [0, maximum].
    """
    logged = of_filter(spec, results["samples"][spec.name], len(docs), task)
    maximum = maximum_of(spec, logged)
    score = raw_score(spec, results, logged) / maximum
    if not -1e-9 <= score <= 1 + 1e-9:
        raise AutoPruneError(
            f"task {spec.name!r} scored {score * maximum:g}, outside [0, {maximum:g}]: write its "
            "maximum into its file (metadata: {autoprune: {maximum: ...}})"
        )
    values, influence = None, None
    if len(docs) and len(logged) == len(docs):
        recompute = None if task is None else _Recomputed(spec, task, logged, scratch)
        values = _values(spec, logged, score, maximum, recompute)
        if values is None and recompute is not None:
            influence = _influence(recompute, np.asarray(images), score)
    if not spec.higher_is_better:
        score = 1.0 - score
        values = None if values is None else 1.0 - values
        influence = None if influence is None else -influence
    return TaskScore(
        name=spec.name,
        metric=spec.metric,
        chance=spec.chance,
        score=score,
        docs=np.asarray(docs, dtype=np.str_),
        images=np.asarray(images, dtype=np.str_),
        values=values,
        influence=influence,
    )


def raw_score(spec: TaskSpec, results: Mapping[str, Any], logged: Logged) -> float:
    """Return the sum of a task's metrics as lmms-eval has them.

    Of several metrics one may be missing where no document has to do with it.

    Raises:
        AutoPruneError: a metric is not one finite number.
    """
    found = results["results"].get(spec.name, {})
    total = 0.0
    several = len(spec.metrics) > 1
    for metric in spec.metrics:
        key = f"{metric},{spec.filter}"
        value = found.get(key)
        if several and logged and key not in found and not any(metric in doc for doc in logged):
            continue
        if not _is_number(value) or not math.isfinite(value):
            raise AutoPruneError(
                f"lmms-eval returned {value!r} for {key!r} of task {spec.name!r}, "
                "where one finite number was due"
            )
        total += float(value)
    return total


def of_filter(spec: TaskSpec, samples: Logged, docs: int, task: Any) -> Logged:
    """Return the samples of the filter that is read; lmms-eval lists those of all, one by one."""
    if task is None or len(samples) <= docs:
        return samples
    names = [one.name for one in task._filters]
    if spec.filter not in names or len(samples) != docs * len(names):
        return samples
    start = names.index(spec.filter) * docs
    return samples[start : start + docs]


def maximum_of(spec: TaskSpec, logged: Logged) -> float:
    """Return the best possible sum on some documents: each part of ``spec.per`` adds its share."""
    if not spec.per or not logged:
        return spec.maximum
    there = {str(sample["doc"][spec.per]) for sample in logged if spec.per in sample.get("doc", {})}
    return spec.maximum * len(there) / spec.parts if there else spec.maximum


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)


# --- means over documents -----------------------------------------------------------------------


def _values(
    spec: TaskSpec, logged: Logged, score: float, maximum: float, recompute: _Recomputed | None
) -> np.ndarray | None:
    """Return what each document adds, ``float64 [docs]``, or None where the score is no mean."""
    found = _numbers(spec, logged, maximum)
    if _is_mean(found, score, recompute):
        return found
    if recompute is None or len(spec.metrics) > 1:
        return None
    alone = np.array([recompute([row]) for row in range(len(logged))])
    return alone if _is_mean(alone, score, recompute) else None


def _numbers(spec: TaskSpec, logged: Logged, maximum: float) -> np.ndarray | None:
    """Return the numbers that documents were given, or None where one has none."""
    values = np.full(len(logged), np.nan)
    for place, sample in enumerate(logged):
        parts = [sample.get(metric) for metric in spec.metrics]
        parts = [part.get("score") if isinstance(part, Mapping) else part for part in parts]
        if all(_is_number(part) for part in parts):
            row = int(sample.get("doc_id", place))
            values[row] = sum(map(float, parts)) / maximum  # type: ignore[arg-type]
    return values if np.isfinite(values).all() else None


def _is_mean(values: np.ndarray | None, score: float, recompute: _Recomputed | None) -> bool:
    """Say whether a score is the mean of these values, on all documents and on a half of them."""
    if values is None or not np.isfinite(values).all() or abs(values.mean() - score) > _EQUAL:
        return False
    if recompute is None or recompute.plain or len(values) < 4:
        return True
    half = list(range(0, len(values), 2))
    there = recompute(half)
    return math.isfinite(there) and abs(values[half].mean() - there) <= _EQUAL


class _Recomputed:
    """Computes a task's score of some of its documents, by its own aggregation."""

    def __init__(self, spec: TaskSpec, task: Any, logged: Logged, scratch: str | None) -> None:
        self.spec = spec
        self.logged = sorted(logged, key=lambda sample: int(sample["doc_id"]))
        known = task.aggregation()
        self.metrics: dict[str, Callable[..., Any]] = {m: known[m] for m in spec.metrics}
        self.args = SimpleNamespace(output_path=scratch)
        names = {getattr(function, "__name__", "") for function in self.metrics.values()}
        modules = {getattr(f, "__module__", "") for f in self.metrics.values()}
        self.plain = names == {"mean"} and modules == {"lmms_eval.api.metrics"}

    def __call__(self, rows: Sequence[int]) -> float:
        """Return the score of these documents, 0..1; NaN where there is none."""
        chosen = [self.logged[row] for row in rows]
        total = 0.0
        try:
            for metric, function in self.metrics.items():
                items = [sample[metric] for sample in chosen if metric in sample]
                if not items:
                    continue
                takes = "args" in inspect.signature(function).parameters
                value = function(items, args=self.args) if takes else function(items)
                if not _is_number(value):
                    return math.nan
                total += float(value)
        except Exception:  # an aggregation that needs all of its documents, or pairs of them
            return math.nan
        return total / maximum_of(self.spec, chosen)


def _influence(recompute: _Recomputed, images: np.ndarray, score: float) -> np.ndarray | None:
    """Return how far the score moves with each document, ``float64 [docs]`` with mean zero.

    Images are left out in groups; what a group's images share of its influence is scaled up to
    that of images by themselves, so that resampling images gives the spread of the score. None
    where the score of some documents cannot be computed.
    """
    names, place = np.unique(images, return_inverse=True)
    groups = min(GROUPS, len(names))
    if groups < 2:
        return None
    group = (np.random.default_rng(0).permutation(len(names)) % groups)[place]
    influence = np.zeros(len(images))
    for number in range(groups):
        inside = group == number
        without = recompute(np.flatnonzero(~inside).tolist())
        if not math.isfinite(without):
            return None
        influence[inside] = (score - without) * (~inside).sum() / inside.sum()
    influence -= influence.mean()
    return influence * math.sqrt(len(names) / groups)
