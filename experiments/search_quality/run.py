"""Search with every arm and seed for the same work, then run what they found again.

    python -m experiments.search_quality.run --workers 2
    python -m experiments.search_quality.run --model DIR --dense seed1 --arms full,random,grid

Rows: ``searches-DENSE.jsonl`` (one a search, with its trials) and ``fronts-DENSE.jsonl`` (what a
search is asked for at 30, 45 and 60 % of the backbone removed, trained again with fresh seeds and
scored on ``report``). A script that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from autoprune.cost.flops import ModelFlops
from autoprune.pipeline.candidate import Candidate
from experiments.cells import Cell, Row, pack_scores, read_rows, run_cells
from experiments.search_quality.arms import ARMS
from experiments.search_quality.loop import TARGETS, Given, Tools, picked, search

HERE = Path(__file__).parent
FLOPS = 1.2e13
"""Of the trials of one search: those of about 30 full recoveries."""

FRESH = (1000, 1001, 1002)


def run_search(tools: Tools, cell: Cell) -> Row:
    """Run one search of an arm."""
    arm = ARMS[cell.what["arm"]]
    settings = {**arm.settings, "seed": cell.what["seed"]}
    trials = search(tools, settings, arm.space(), cell.what["budget"])
    return {"trials": trials, "prepared": preparation_flops(tools)}


def preparation_flops(tools: Tools) -> float:
    """Return what calibration, the teacher's states and scoring the dense model cost."""
    cost: ModelFlops = tools.bench.flops
    shapes, assets = tools.assets.spec.layers, tools.assets
    train, exam = assets.train, assets.exams["search"].encoded

    def lengths(encoded: Any) -> dict[str, Any]:
        rows = max(1, len(encoded))
        return {
            "tokens": round(len(encoded.input_ids) / rows),
            "predicted": round(encoded.num_answer_tokens / rows),
            "images": int(encoded.has_images),
        }

    calibration = assets.importance.samples * cost.step(shapes, scope="full", **lengths(train))
    teacher = len(train) * cost.forward(shapes, **lengths(train))
    return calibration + teacher + len(exam) * cost.forward(shapes, **lengths(exam))


def run_again(tools: Tools, cell: Cell) -> Row:
    """Train a found candidate again with a fresh seed, and score it on ``report``."""
    found = Candidate.from_dict(cell.what["candidate"])
    from dataclasses import replace

    fresh = replace(found, recipe=replace(found.recipe, seed=cell.what["seed"]))
    run = tools.bench.start(fresh)
    result = run.rung(1.0, split="report")
    assert result.scores is not None
    return {
        "report": result.retention,
        "flops": result.flops,
        "answers": pack_scores(result.scores),
    }


def found_again(searches: dict[str, Row], arms: tuple[str, ...]) -> list[Cell]:
    """Return a cell for each target, arm, search seed and fresh seed."""
    cells = []
    for fresh in FRESH:
        for row in searches.values():
            if row["arm"] not in arms:
                continue
            for target in TARGETS:
                if (best := picked(row["trials"], target)) is None:
                    continue
                what = {
                    "arm": row["arm"],
                    "search_seed": row["seed"],
                    "target": target,
                    "seed": fresh,
                    "trial": best["trial"],
                    "origin": best["origin"],
                    "params": best["params"],
                    "removed": best["removed"],
                    "search": best["search"],
                    "search_flops": row["budget"] + row["prepared"],
                    "knobs": best["knobs"],
                    "candidate": best["candidate"],
                }
                key = f"{row['arm']}-{row['seed']}-{target:g}-{fresh}"
                cells.append(Cell(key, what))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each arm")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--again", default="full,random,grid,rule", help="arms whose finds rerun")
    parser.add_argument("--flops", type=float, default=FLOPS, help="of the trials of a search")
    parser.add_argument("--model", default="embedded", help="the dense model")
    parser.add_argument("--dense", default="seed0", help="its name in the files of rows")
    parser.add_argument("--home", type=Path, default=Path("mlruns"), help="whose cache is used")
    given = parser.parse_args()
    arms = tuple(given.arms.split(","))
    cells = [
        Cell(f"{arm}-{seed}", {"arm": arm, "seed": seed, "budget": given.flops})
        for seed in range(given.seeds)
        for arm in arms
    ]
    opened = Given(given.model, given.home.absolute())
    path = HERE / f"searches-{given.dense}.jsonl"
    run_cells(path, cells, Tools, opened, run_search, given.workers)
    again = found_again(read_rows(path), tuple(given.again.split(",")))
    run_cells(HERE / f"fronts-{given.dense}.jsonl", again, Tools, opened, run_again, given.workers)


if __name__ == "__main__":
    main()
