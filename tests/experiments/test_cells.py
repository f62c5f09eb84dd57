"""What the experiments share: rows that a kill cannot lose, packed answers, Holm's correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.evaluation.scores import TaskScore, TaskScores
from experiments.cells import Cell, pack_scores, read_rows, run_cells, unpack_scores
from experiments.claims import difference, holm, mean_interval


def open_bench(given: int) -> int:
    return given


def square(bench: int, cell: Cell) -> dict[str, Any]:
    if cell.what["x"] < 0:
        raise ValueError("below zero")
    return {"y": bench * cell.what["x"] ** 2}


def test_each_cell_runs_once_and_a_cut_line_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    cells = [Cell(f"c{x}", {"x": x}) for x in range(4)]
    path.write_text(json.dumps({"key": "c0", "x": 0, "y": -1}) + '\n{"key": "c1", "x"\n')
    rows = run_cells(path, cells, open_bench, 10, square, 2)
    assert [rows[f"c{x}"]["y"] for x in range(4)] == [-1, 10, 40, 90]
    assert read_rows(path) == rows


def test_a_failure_ends_the_run_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="below zero"):
        run_cells(path, [Cell("a", {"x": 1}), Cell("b", {"x": -1})], open_bench, 1, square, 1)
    assert list(read_rows(path)) == ["a"]


def scores(rate: float, seed: int, images: int = 60) -> TaskScores:
    dice = np.random.default_rng(seed)
    made = []
    for name in ("read", "count"):
        values = (dice.random(images) < rate).astype(np.float64)
        docs = np.array([f"{name}{i}" for i in range(images)])
        shown = np.array([f"image{i}" for i in range(images)])
        made.append(TaskScore(name, "exact", 0.1, float(values.mean()), docs, shown, values))
    return TaskScores(tuple(made))


def test_answers_come_back_from_their_bits() -> None:
    found = scores(0.7, 1)
    again = unpack_scores(pack_scores(found), scores(0.9, 2))
    assert again.by_task == found.by_task
    assert all(
        np.array_equal(a.values, b.values) for a, b in zip(again.tasks, found.tasks, strict=True)
    )


def test_p_values_agree_with_intervals() -> None:
    dense = scores(0.95, 0)
    high = [scores(0.9, seed) for seed in (1, 2, 3)]
    low = [scores(0.5, seed) for seed in (4, 5, 6)]
    other = [scores(0.9, seed) for seed in (7, 8, 9)]
    far, near = difference(high, low, dense), difference(high, other, dense)
    assert far.low > 0
    assert far.p < 0.05
    assert near.low < 0 < near.high
    assert near.p > 0.05
    assert difference(high, other, dense, margin=0.5).p < near.p


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_mean_interval() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
