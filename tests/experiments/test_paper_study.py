"""The study's grid: what it holds, that its sizes are equal, and what its analysis concludes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.evaluation.retention import retention
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.allocation import largest_unit
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import Importance
from experiments.cells import pack_scores, run_cells
from experiments.paper_study.analyse import best_of_grid, configurations, judged
from experiments.paper_study.findings import findings
from experiments.paper_study.grid import (
    CUTS,
    DENSE,
    RECOVERIES,
    ROWS,
    SEEDS,
    SIZES,
    STUDY_AXES,
    TUNED_ON,
    VARIANTS,
    rank,
    report_cells,
    sizes_of,
)
from experiments.paper_study.page import STATEMENTS, statements_table
from experiments.paper_study.run import best_scales, candidate_of
from experiments.paper_study.scores import mixed, read

RATES = dict.fromkeys(itertools.product(CUTS, SIZES, TUNED_ON), 1.0)
CELLS = report_cells(STUDY_AXES, RATES)
LAYERS, HEADS, CHANNELS = 10, 8, 64
SPEC = BackboneSpec(
    model_type="llama",
    hidden_size=32,
    head_dim=4,
    layers=(LayerShape(HEADS, HEADS, CHANNELS),) * LAYERS,
    head_params=512,
    kv_head_params=0,
    channel_params=96,
    attention_fixed_params=0,
    mlp_fixed_params=0,
    layer_fixed_params=64,
    outside_params=20000,
)


def importance() -> Importance:
    dice = np.random.default_rng(0)
    units = {"groups": HEADS, "channels": CHANNELS, "heads": HEADS}
    values = {
        f"{name}_{unit}": dice.random((LAYERS, count) + (() if whole else (2,)))
        for name, whole in (
            ("weight_taylor", True),
            ("gate_taylor", False),
            ("activation", False),
            ("magnitude", True),
        )
        for unit, count in units.items()
    }
    influence = {
        f"{name}_influence": dice.random((LAYERS, 2)) for name in ("block", "attention", "mlp")
    }
    return Importance(
        **values,
        **influence,
        group_params=np.full(LAYERS, float(SPEC.attention_group_params)),
        channel_params=np.full(LAYERS, float(SPEC.channel_params)),
        head_params=np.full(LAYERS, float(SPEC.head_params)),
        samples=1,
        answer_tokens=1,
        loss=1.0,
    )


def test_the_grid_is_the_study_s() -> None:
    trained = [c.what for c in CELLS if c.what["recovery"] != "none"]
    names = ("axis", "size", "recovery", "data", "variant", "seed")
    wanted = itertools.product(
        ("depth", "width"),
        (0.15, 0.30, 0.45, 0.60),
        set(RECOVERIES) - {"none"},
        (0.05, 0.2, 1.0),
        ("one pass", "equal updates"),
        SEEDS,
    )
    assert {tuple(what[name] for name in names) for what in trained} == set(wanted)
    assert len(RECOVERIES) == 9
    assert len(SEEDS) == 3
    bare = [(c.what["axis"], c.what["size"]) for c in CELLS if c.what["recovery"] == "none"]
    assert sorted(bare) == sorted((axis, size) for axis in CUTS for size in sizes_of(axis))


def test_keys_are_unique_and_what_findings_rest_on_comes_first() -> None:
    every = CELLS + report_cells(("uniform",), RATES)
    assert len({cell.key for cell in CELLS}) == len(CELLS)
    assert len({cell.key for cell in every}) == len(every) - sum(
        cell.what["recovery"] == "none" for cell in CELLS
    )
    ranks = [rank(cell.what) for cell in CELLS]
    assert ranks == sorted(ranks)
    assert report_cells(STUDY_AXES, RATES, last=0) == CELLS[: ranks.count(0)]


def test_updates_are_equal_or_each_sample_is_seen_once() -> None:
    for cell in CELLS:
        if cell.what["recovery"] == "none" or cell.what["seed"] != SEEDS[0]:
            continue
        if cell.what["size"] != 0.30 or cell.what["axis"] != "width":
            continue
        recipe = candidate_of(SPEC, importance(), cell).recipe
        once = cell.what["variant"] == VARIANTS[0]
        assert recipe.sample_passes == (round(2000 * cell.what["data"]) if once else 800)
        assert recipe.data_fraction == min(cell.what["data"], recipe.sample_passes / 2000)
        assert recipe.scope == ("projector" if "projector" in cell.what["recovery"] else "lora")


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_equal_across_axes(size: float) -> None:
    cells = [c for c in CELLS if c.what["size"] == size and c.what["recovery"] == "none"]
    plans = {c.what["axis"]: candidate_of(SPEC, importance(), c).plan for c in cells}
    assert set(plans) == {axis for axis in CUTS if size in sizes_of(axis)}
    target = SPEC.outside_params + (1 - size) * SPEC.backbone_params
    for plan in plans.values():
        assert abs(SPEC.params_of(plan.shapes) - target) <= largest_unit(SPEC, Allocation(), 1)
    trimmed = plans["depth"].shapes
    assert len(set(trimmed)) == 1 or max(s.channels for s in trimmed) - 1 == min(
        s.channels for s in trimmed
    )
    held = all(shape == SPEC.layers[0] for shape in (plans["width"].shapes[i] for i in (0, 9)))
    assert held == ("uniform" in plans)  # beyond the window width is uniform, and counted once


def test_a_grid_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"key": cell.key}) + "\n" for cell in CELLS))
    assert set(run_cells(path, CELLS, _never, None, _never, 1)) == {cell.key for cell in CELLS}


def _never(*given: Any) -> Any:
    raise AssertionError(f"{given} is there already")


def test_the_best_rate_is_read_off_the_search_split_alone() -> None:
    at = {"axis": "depth", "size": 0.3, "recovery": "SFT + L2"}
    rows = [
        {**at, "split": "search", "scale": 1.0, "retention": 0.8},
        {**at, "split": "search", "scale": 2.0, "retention": 0.9},
        {**at, "split": "search", "scale": 4.0, "diverged": "at update 3"},
        {**at, "split": "report", "scale": 0.5, "retention": 1.0},
    ]
    assert best_scales(rows) == {("depth", 0.3, "lora"): 2.0}


def answers(rate: float, seed: int, images: int = 100) -> TaskScores:
    dice = np.random.default_rng(seed)
    made = []
    for name in ("read", "count"):
        values = (dice.random(images) < rate).astype(np.float64)
        docs = np.array([f"{name}{i}" for i in range(images)])
        shown = np.array([f"image{i}" for i in range(images)])
        made.append(TaskScore(name, "exact", 0.1, float(values.mean()), docs, shown, values))
    return TaskScores(tuple(made))


def test_mixed_answers_have_the_mixed_retention() -> None:
    dense = answers(0.95, 0)
    a, b = answers(0.8, 1), answers(0.6, 2)
    found = retention(mixed([(2.0, a), (-0.95, b)]), dense).value
    assert found == pytest.approx(2 * retention(a, dense).value - 0.95 * retention(b, dense).value)


def test_verdicts_follow_the_rows(tmp_path: Path) -> None:
    """Depth keeps more everywhere here, recoveries are alike: both have to come out."""
    dense = answers(0.95, 0)
    (tmp_path / "dense.json").write_text(json.dumps(dense.to_dict()))
    with (tmp_path / "rows.jsonl").open("w") as stream:
        for place, cell in enumerate(CELLS + report_cells(("uniform",), RATES)):
            rate = 0.85 if cell.what["axis"] == "depth" else 0.55
            rate -= 0.1 * (cell.what["recovery"] == "none")
            more = {"params": 1, "flops": 1.0, "unique": cell.what["data"], "rate": 1e-3}
            packed = pack_scores(answers(rate, place + 1))
            stream.write(json.dumps({"key": cell.key, **cell.what, **more, "answers": packed}))
            stream.write("\n")
    rows, scores, whole = read(tmp_path / "rows.jsonl", tmp_path / "dense.json")
    table = configurations(scores, whole, rows)
    assert {r["seeds"] for r in table if r["recovery"] != "none"} == {3}
    kept = {
        few["finding"]: few
        for few in judged({c: s for c, s in scores.items() if c.size >= 0.30}, whole)[0]
    }
    assert kept["2 depth over width, 30 %, all recoveries"]["verdict"] == "holds"
    assert kept["2 width over depth, 45 %, all recoveries"]["verdict"] == "does not hold"
    assert kept["1 width over depth, no recovery, 30 %"]["verdict"] == "does not hold"
    assert all(few["verdict"] == "undecided" for name, few in kept.items() if name[0] in "56")
    best = best_of_grid(table, rows)
    assert {entry["axis"] for entry in best.values()} == {"depth"}
    assert best["0.3 at most 800 passes"]["passes"] <= 800
    assert len(best["0.45 any"]["answers"]) == 3
    assert {"0.3 any", "0.45 any", "0.6 any"} <= set(best)


def test_every_finding_stands_under_a_statement() -> None:
    """Where all rows are there, nothing that is tested is left out of the page, nor twice in it."""
    scores = read(ROWS, DENSE)[1]
    tested, missing = findings(scores)
    stated = [name for statement in STATEMENTS for name, _ in statement.tested]
    assert sorted(stated) == sorted([*(f.name for f in tested), *missing])


def test_verdicts_are_told_apart() -> None:
    def row(name: str, verdict: str) -> dict[str, Any]:
        numbers = {"difference": 0.01, "low": -0.005, "high": 0.03}
        return {"finding": name, "verdict": verdict, **numbers}

    table = statements_table(
        [
            row("6 SFT + reverse KL over SFT, at all sizes", "holds"),
            row("6 SFT + L2 + reverse KL over SFT + L2, at all sizes", "undecided"),
        ]
    )
    lines = table.splitlines()
    assert "| 1. Without recovery width keeps more than depth | not measured |" in lines[2]
    (six,) = [line for line in lines if line.startswith("| 6.")]
    assert "**holds**: to SFT; **undecided**: to SFT + L2" in six
    assert "to SFT +1.0 (-0.5 … +3.0); to SFT + L2 +1.0" in six
