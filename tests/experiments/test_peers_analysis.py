"""From rows to verdicts: which runs count as repetitions, and what may be said of a difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.evaluation.scores import TaskScore, TaskScores
from experiments.cells import pack_scores
from experiments.claims import Claim
from experiments.pages import MARKS, into
from experiments.peers.analyse import (
    common_runs,
    markdown,
    table,
    tuned_runs,
    verdict,
)
from experiments.peers.others import SEARCHED, Runs, grid_runs, searched_runs


def scores(rate: float, seed: int, images: int = 120) -> TaskScores:
    dice = np.random.default_rng(seed)
    values = (dice.random(images) < rate).astype(np.float64)
    docs = np.array([f"d{i}" for i in range(images)])
    return TaskScores((TaskScore("read", "exact", 0.1, float(values.mean()), docs, docs, values),))


DENSE = scores(0.98, 0)


def row(method: str, rate: float, **more: Any) -> dict[str, Any]:
    answers = pack_scores(scores(rate, hash((more.get("seed"), more.get("plan"))) % 1000 + 1))
    return {
        "model": "m",
        "method": method,
        "removed": 0.45,
        "plan": 0,
        "bare": True,
        "bare_kl": 0.5,
        "kl": 0.1,
        "before": answers,
        "after": answers,
        **more,
    }


PLANS = {f"m/flap/0.45/{plan}": {"params": 100 + plan, "flops": 1.0} for plan in range(3)}


def test_repeated_plans_are_the_repetitions_where_there_are_three() -> None:
    one_plan = [row("flap", 0.8, seed=seed) for seed in range(3)]
    found = common_runs(one_plan, PLANS, DENSE)["flap", 0.45]
    assert len(found.scores) == len(found.before) == 3
    assert found.params == 100
    three = [row("flap", 0.8, plan=plan, seed=seed) for plan in range(3) for seed in range(2)]
    found = common_runs(three, PLANS, DENSE)["flap", 0.45]
    assert len(found.scores) == 3
    assert found.params == 102


def test_one_tuning_has_three_recoveries_and_three_have_one_each() -> None:
    tunings = {f"m/flap/0.45/0/{t}": {"flops": 10.0 + t} for t in range(3)}

    def made(tuning: int, seed: int) -> dict[str, Any]:
        return row("flap", 0.8, tuning=tuning, seed=seed, key=f"m/flap/0.45/0/{tuning}/{seed}")

    one = tuned_runs([made(0, seed) for seed in range(3)], tunings, PLANS, DENSE)["flap", 0.45]
    assert (len(one.scores), one.flops) == (3, 10.0)
    several = [made(0, 0), made(0, 1), made(0, 2), made(1, 1), made(2, 2)]
    three = tuned_runs(several, tunings, PLANS, DENSE)["flap", 0.45]
    assert (len(three.scores), three.flops) == (3, 11.0)


def test_searches_are_read_by_arm_and_target(tmp_path: Path) -> None:
    path = tmp_path / "fronts.jsonl"
    lines = [
        {
            "key": f"{arm}-{search}-{seed}",
            "arm": arm,
            "search_seed": search,
            "seed": seed,
            "target": 0.45,
            "params": 90,
            "search_flops": 9.0,
            "answers": pack_scores(scores(0.9, 7 * search + seed)),
        }
        for arm in ("full", "random")
        for search in range(4)
        for seed in range(2)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = searched_runs(path, "full", DENSE)[SEARCHED, 0.45]
    assert (len(found.scores), found.params, found.flops) == (4, 90, 3.0)


def test_a_table_says_who_is_better(tmp_path: Path) -> None:
    def runs(rate: float, start: int) -> Runs:
        return Runs(100, tuple(scores(rate, start + seed) for seed in range(3)))

    found = {
        ("autoprune", 0.45): runs(0.95, 10),
        ("flap", 0.45): runs(0.5, 20),
        ("shortgpt", 0.45): runs(0.95, 30),
    }
    rows = {r["method"]: r for r in table(found, "autoprune", DENSE)}
    assert rows["flap"]["verdict"] == "better"
    assert rows["flap"]["difference"] == pytest.approx(
        rows["autoprune"]["retention"] - rows["flap"]["retention"], abs=1e-9
    )
    assert rows["shortgpt"]["verdict"] in ("undecided", "no worse")
    assert "difference" not in rows["autoprune"]
    text = markdown(list(rows.values()))
    assert text.count("| FLAP | ") == 2
    assert " better, p 0.0" in text
    page = tmp_path / "README.md"
    page.write_text(f"# Head\n{MARKS[0]}\nold\n{MARKS[1]}\ntail\n")
    into(page, text)
    into(page, text)
    assert page.read_text() == f"# Head\n{MARKS[0]}\n\n{text}\n\n{MARKS[1]}\ntail\n"


@pytest.mark.parametrize(
    ("mean", "differs", "allows", "said"),
    [
        (0.05, 0.01, 0.01, "better"),
        (-0.05, 0.01, 1.0, "worse"),
        (0.005, 0.3, 0.02, "no worse"),
        (-0.002, 0.6, 0.2, "undecided"),
    ],
)
def test_verdicts(mean: float, differs: float, allows: float, said: str) -> None:
    assert verdict(Claim(mean, 0.0, 0.0, 0.0), differs, allows) == said


def test_the_grids_best_points_stand_beside_the_methods(tmp_path: Path) -> None:
    best = {
        f"{removed:g} {among}": {
            "params": int(1000 * (1 - removed)),
            "answers": {str(seed): pack_scores(scores(rate, seed)) for seed in range(2)},
        }
        for removed in (0.3, 0.45)
        for among, rate in (("any", 0.9), ("at most 800 passes", 0.8))
    }
    path = tmp_path / "best.json"
    path.write_text(json.dumps(best))
    found = grid_runs(path, DENSE)
    assert set(found) == {(m, r) for m in ("grid", "grid-800") for r in (0.3, 0.45)}
    assert found["grid", 0.3].params == 700
    assert len(found["grid-800", 0.45].scores) == 2
    own = {
        (SEARCHED, r): Runs(700, tuple(scores(0.97, 9 + s) for s in range(3))) for r in (0.3, 0.45)
    }
    rows = table(found | own, SEARCHED, DENSE)
    assert [row["method"] for row in rows][:3] == [SEARCHED, "grid", "grid-800"]
    assert "the study's grid, its best | " in markdown(rows)
