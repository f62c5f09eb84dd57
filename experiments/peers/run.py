"""Build every method's plans, recover them by one recipe, and tune each method at equal cost.

    python -m experiments.peers.run --workers 2

Each stage goes on where it was stopped. ``plans`` builds all plans; ``common`` recovers each with
one recipe and scores it on ``report``, before and after; ``tune`` spends on each peer's recipe
what an AutoPrune search spends, on ``search``; ``tuned`` recovers the winners afresh and scores
them on ``report``. What the stages measured is read by ``python -m experiments.peers.analyse``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cells import Cell, Row, read_rows, run_cells
from experiments.peers.bench import FRESH, Given, open_tools, plan_key, preparation, work
from experiments.peers.catalogue import METHODS, REMOVED
from experiments.peers.torchpruning import available

HERE = Path(__file__).parent
STAGES = ("plans", "common", "tune", "tuned")
SEARCH_FLOPS = 1.2e13
"""FLOPs of one AutoPrune search: 40 trials of 3e11 each, before early stopping."""


def label(model: str) -> str:
    """Return what a dense model is called in rows."""
    return Path(model).name


def names(tuning: bool) -> list[str]:
    """Return the methods of a stage; those of a package that is not installed are left out."""
    tuned = [name for name, m in METHODS.items() if m.peer or name == "autoprune"]
    chosen = tuned if tuning else list(METHODS)
    return [name for name in chosen if available() or not name.startswith("tp-")]


def cells(
    model: str,
    stage: str,
    seeds: int,
    plans: int,
    done: Callable[[str], dict[str, Row]],
    sizes: Sequence[float] = REMOVED,
) -> list[Cell]:
    """Return the cells of a stage, the first seed of everything first.

    Args:
        model: what the dense model is called.
        stage: of ``STAGES``.
        seeds: of recoveries and of tunings.
        plans: of plans that a seed enters; seeds take them in turn.
        done: returns the rows of an earlier stage.
        sizes: shares of the backbone removed.
    """
    found: dict[str, Cell] = {}
    for seed in range(plans if stage == "plans" else seeds):
        for removed in sizes:
            for method in names(stage in ("tune", "tuned")):
                if removed not in METHODS[method].sizes:
                    continue
                key = plan_key(model, method, removed, seed % plans)
                what: dict[str, Any] = {"stage": stage, "model": model, "method": method}
                what |= {"removed": removed, "plan": int(key.rsplit("/", 1)[1])}
                if stage == "plans":
                    found[key] = Cell(key, what)
                elif stage == "common":
                    bare = seed == 0 or what["plan"] > 0  # the same for every recovery of a plan
                    more = {"seed": FRESH + seed, "bare": bare}
                    found[f"{key}/{seed}"] = Cell(f"{key}/{seed}", {**what, **more})
                elif stage == "tune":
                    found[f"{key}/{seed}"] = Cell(f"{key}/{seed}", {**what, "seed": seed})
                elif (row := done("tune").get(f"{key}/{seed}")) is not None:
                    # Of one tuning there are three recoveries; of three, one of each will do.
                    for place in range(seed, seed + (3 if seed == 0 else 1)):
                        again = {"tuning": seed, "seed": FRESH + place, "knobs": row["knobs"]}
                        last = f"{key}/{seed}/{place}"
                        found[last] = Cell(last, {**what, **again})
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="embedded", help="dense model, by name or path")
    parser.add_argument("--home", type=Path, default=Path("mlruns"), help="whose cache is used")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the rows")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--seeds", type=int, default=3, help="of recoveries")
    parser.add_argument("--removed", nargs="+", type=float, default=list(REMOVED))
    parser.add_argument("--tunings", type=int, default=1, help="of each peer and size")
    parser.add_argument("--plans", type=int, default=1, help="seeds of plans that one enters")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--flops",
        type=float,
        default=SEARCH_FLOPS,
        help="of an AutoPrune search; a method has a third of it for each of the three sizes",
    )
    given = parser.parse_args()
    if not available():
        print("torch-pruning is not installed, and left out: pip install 'autoprune[experiments]'")
    tools = Given(
        preparation(given.model), given.home, given.out / "plans.jsonl", given.flops / len(REMOVED)
    )
    rows: dict[str, dict[str, Row]] = {}
    for stage in STAGES:
        if stage not in given.stages:
            rows[stage] = read_rows(given.out / f"{stage}.jsonl")
            continue
        seeds = given.tunings if stage in ("tune", "tuned") else given.seeds
        model = label(given.model)
        wanted = cells(
            model, stage, seeds, given.plans, lambda name: rows[name], tuple(given.removed)
        )
        path = given.out / f"{stage}.jsonl"
        rows[stage] = run_cells(path, wanted, open_tools, tools, work, given.workers)


if __name__ == "__main__":
    main()
