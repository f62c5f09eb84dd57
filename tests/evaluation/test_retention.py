"""Retention against tables worked out by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from autoprune.errors import AutoPruneError
from autoprune.evaluation.retention import bootstrap, kept_tasks, paired_difference, retention
from autoprune.evaluation.scores import TaskScore, TaskScores


def task(
    name: str, values: Sequence[float], chance: float = 0.0, images: Sequence[str] | None = None
) -> TaskScore:
    v = np.asarray(values, dtype=np.float64)
    docs = np.array([f"{name}/{i}" for i in range(len(v))])
    return TaskScore(
        name, "exact_match", chance, float(v.mean()), docs, np.array(images or docs), v
    )


def point(name: str, score: float, chance: float = 0.0) -> TaskScore:
    none = np.array([], dtype=np.str_)
    return TaskScore(name, "m", chance, score, none, none, None)


DENSE = TaskScores((point("a", 0.9, 0.1), point("b", 0.8, 0.5), point("c", 0.55, 0.5)))


@pytest.mark.parametrize(
    ("scores", "value", "raw"),
    [
        ((0.9, 0.8, 0.55), 1.0, 1.0),
        ((0.1, 0.5, 0.5), 0.0, 1.1 / 2.25),
        # (0.5 - 0.1 + 0.65 - 0.5) / (0.8 + 0.3) = 0.5; the task c is left out of R alone.
        ((0.5, 0.65, 0.55), 0.5, 1.7 / 2.25),
        ((1.0, 1.0, 0.55), 1.4 / 1.1, 2.55 / 2.25),  # not clipped above
        ((0.0, 0.4, 0.55), -0.2 / 1.1, 0.95 / 2.25),  # nor below
    ],
)
def test_by_hand(scores: tuple[float, float, float], value: float, raw: float) -> None:
    chances = (0.1, 0.5, 0.5)
    candidate = TaskScores(
        tuple(point(n, s, c) for n, s, c in zip("abc", scores, chances, strict=True))
    )
    kept = retention(candidate, DENSE)
    assert kept.value == pytest.approx(value)
    assert kept.raw == pytest.approx(raw)
    assert kept.left_out == ("c",)
    assert kept.per_task == {
        "a": pytest.approx((scores[0] - 0.1) / 0.8),
        "b": pytest.approx((scores[1] - 0.5) / 0.3),
    }


def test_all_left_out_is_an_error() -> None:
    dense = TaskScores((point("a", 0.15, 0.1),))
    with pytest.raises(AutoPruneError, match=r"a 0\.150"):
        kept_tasks(dense)


def test_different_documents_or_tasks_are_refused() -> None:
    a = TaskScores((task("a", [1, 1, 0, 1]),))
    fewer = TaskScores((task("a", [1, 1, 0]),))
    other = TaskScores((task("b", [1, 1, 0, 1]),))
    with pytest.raises(AutoPruneError, match="same subset"):
        retention(fewer, a)
    with pytest.raises(AutoPruneError, match="same tasks"):
        bootstrap(other, a)


def test_no_values_no_interval() -> None:
    with pytest.raises(AutoPruneError, match="per-document"):
        bootstrap(DENSE, DENSE)


def test_a_score_must_be_a_number() -> None:
    with pytest.raises(AutoPruneError, match="not a number"):
        point("a", float("nan"))


def test_json_round_trip() -> None:
    scores = TaskScores((task("a", [1, 0.5, 0]), point("b", 0.25)), seconds=1.5)
    back = TaskScores.from_dict(scores.to_dict())
    assert back.by_task == scores.by_task
    assert back["a"].images.tolist() == scores["a"].images.tolist()
    assert back["b"].values is None
    assert back.to_dict() == scores.to_dict()
    assert scores.questions == 3
    assert scores.average == pytest.approx(0.375)


def test_dense_against_itself_has_no_width() -> None:
    rng = np.random.default_rng(0)
    dense = TaskScores((task("a", (rng.random(50) < 0.9).tolist()),))
    interval = bootstrap(dense, dense)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))
    assert interval.images == 50


def test_equal_seed_equal_interval() -> None:
    rng = np.random.default_rng(1)
    dense = TaskScores((task("a", (rng.random(80) < 0.9).tolist(), 0.1),))
    run = TaskScores((task("a", (rng.random(80) < 0.6).tolist(), 0.1),))
    assert bootstrap(run, dense, seed=3) == bootstrap(run, dense, seed=3)
    assert bootstrap(run, dense, seed=3) != bootstrap(run, dense, seed=4)


def test_questions_of_one_image_count_once() -> None:
    rng = np.random.default_rng(2)
    right = (rng.random(60) < 0.6).astype(float)
    images = [f"i{i}" for i in range(60)]
    one = TaskScores((task("a", right.tolist(), images=images),))
    eight = TaskScores((task("a", np.tile(right, 8).tolist(), images=images * 8),))
    dense_one = TaskScores((task("a", [1.0] * 60, images=images),))
    dense_eight = TaskScores((task("a", [1.0] * 480, images=images * 8),))
    a, b = bootstrap(one, dense_one), bootstrap(eight, dense_eight)
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


def test_one_task_alone() -> None:
    rng = np.random.default_rng(3)
    docs = [(rng.random(40) < p).astype(float).tolist() for p in (1.0, 1.0, 0.5, 0.9)]
    dense = TaskScores((task("a", docs[0]), task("b", docs[1])))
    run = TaskScores((task("a", docs[2]), task("b", docs[3])))
    assert bootstrap(run, dense, task="a").mean == pytest.approx(run["a"].score)
    with pytest.raises(AutoPruneError, match="'x' was not evaluated"):
        bootstrap(run, dense, task="x")


def test_a_difference_beyond_doubt_is_not_tied() -> None:
    rng = np.random.default_rng(4)
    dense = TaskScores((task("a", [1.0] * 300),))
    runs = [TaskScores((task("a", (rng.random(300) < p).tolist()),)) for p in (0.9, 0.9, 0.5, 0.5)]
    difference = paired_difference(runs[:2], runs[2:], dense)
    assert not difference.tied
    assert difference.mean == pytest.approx(0.4, abs=0.1)
    assert difference.seeds == 2


def test_fast_enough() -> None:
    rng = np.random.default_rng(5)
    images = [f"i{i // 8}" for i in range(4000)]
    dense = TaskScores((task("a", (rng.random(4000) < 0.9).tolist(), images=images),))
    run = TaskScores((task("a", (rng.random(4000) < 0.6).tolist(), images=images),))
    bootstrap(run, dense)  # imports scipy
    started = time.perf_counter()
    bootstrap([run, run, run], dense, resamples=2000)
    assert time.perf_counter() - started < 0.5  # measured 0.03 s on one core
