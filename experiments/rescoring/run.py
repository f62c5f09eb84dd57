"""Does it pay to measure importance again after each tenth of the cut?

    python -m experiments.rescoring.run --workers 2

Three kinds of cut at three sizes, planned once or re-scored; the KL divergence before recovery and
the retention after it, by seed of the recovery, on the ``search`` split: it chooses a default.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from autoprune.pipeline.run import Bench
from autoprune.resources import Resources
from autoprune.search.candidates.decode import DecodeContext, decode
from autoprune.search.candidates.rescoring import rescored
from autoprune.search.knobs.space import load_space
from autoprune.search.knobs.table import Value
from autoprune.search.problem import PipelineProblem
from autoprune.search.settings import make_settings
from experiments.cells import Cell, Row, by, read_rows, run_cells
from experiments.claims import mean_interval

HERE = Path(__file__).parent
SIZES, SEEDS = (0.30, 0.45, 0.60), (0, 1, 2)
BASE: dict[str, Value] = {
    "axis": "width",
    "temperature": 0.5,
    "attention_share": 0.2,
    "criterion": "taylor",
    "protect_first": 0,
    "scope": "full",
    "recovery": "sft+hidden",
    "data_fraction": 1.0,
}
CUTS: dict[str, dict[str, Value]] = {
    "widths, temperature 0.5, taylor": {},
    "widths, temperature 0, weight_taylor": {"temperature": 0.0, "criterion": "weight_taylor"},
    "layers and widths, taylor": {"axis": "hybrid", "depth_share": 0.5},
}


def open_tools(home: Path) -> tuple[Bench, DecodeContext]:
    """Prepare the embedded model for sizes from 25 to 90 % of the whole."""
    settings = make_settings({"home": home, "budgets": ("90%",), "min_size": "25%"})
    prepared = PipelineProblem().prepare(settings, load_space("hybrid"), lambda text: None)
    return Bench(prepared.assets, Resources(1.0), ["search"]), prepared.context


def measure(tools: tuple[Bench, DecodeContext], cell: Cell) -> Row:
    """Plan a cut, recover it with each seed, and score it."""
    bench, context = tools
    knobs = {**load_space("hybrid").complete({}), **BASE, **CUTS[cell.what["cut"]]}
    del knobs["size"]
    knobs |= {"backbone_removed": cell.what["removed"], "rescore": cell.what["rescore"]}
    again = rescored(knobs, context, bench)
    plan = decode(knobs, again.context).plan
    kept = []
    for seed in SEEDS:
        run = bench.start(decode(knobs, replace(again.context, seed=seed)))
        result = run.rung(1.0)
        kept.append(round(result.retention or 0.0, 4))
    return {
        "kl": round(bench.proxy(bench.prune(plan, "float32")), 4),
        "retention": kept,
        "rescoring_gflops": round(again.flops / 1e9, 1),
        "trial_gflops": round(result.flops / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--home", type=Path, default=Path("mlruns"), help="whose cache is used")
    given = parser.parse_args()
    cells = [
        Cell(f"{cut}|{removed:g}|{way}", {"cut": cut, "removed": removed, "rescore": way})
        for removed in SIZES
        for cut in CUTS
        for way in ("once", "tenths")
    ]
    path = HERE / "rows.jsonl"
    run_cells(path, cells, open_tools, given.home.absolute(), measure, given.workers)
    print("| cut | removed | KL once | KL tenths | R once | tenths minus once | cost |")
    print("|---|---|---|---|---|---|---|")
    for (cut, removed), rows in by(read_rows(path).values(), "cut", "removed").items():
        one, ten = (next(r for r in rows if r["rescore"] == way) for way in ("once", "tenths"))
        gaps = [b - a for a, b in zip(one["retention"], ten["retention"], strict=True)]
        mean, low, high = mean_interval(gaps)
        kept = sum(one["retention"]) / len(SEEDS)
        more = ten["rescoring_gflops"] / ten["trial_gflops"]
        print(
            f"| {cut} | {removed:.0%} | {one['kl']:.3f} | {ten['kl']:.3f} | {kept:.3f} | "
            f"{mean:+.3f} ({low:+.3f} … {high:+.3f}) | +{more:.0%} |"
        )


if __name__ == "__main__":
    main()
