"""Run the study's grid: tune learning rates on ``search``, then score each cell on ``report``.

    python -m experiments.paper_study.run --workers 2

Cells that rows.jsonl holds are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from autoprune.evaluation.retention import retention
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models.shape import BackboneSpec
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import Preparation, prepare
from autoprune.pipeline.run import Bench
from autoprune.pruning.scores import Importance
from autoprune.recovery.loop import RecoveryDiverged
from autoprune.resources import Resources
from autoprune.search.candidates.decode import DecodeContext, decode
from autoprune.search.knobs.space import load_space
from autoprune.zoo import EMBEDDED
from experiments.cells import Cell, Row, pack_scores, run_cells
from experiments.paper_study.grid import (
    DENSE,
    ROWS,
    SAMPLES,
    SCALES,
    STUDY_AXES,
    TUNED_ON,
    knobs_of,
    report_cells,
    sizes_of,
    tuning_cells,
)

SEARCH_IMAGES, REPORT_IMAGES = 256, 384

Where = tuple[str, float, str]
"""Axis, size, scope."""


def prepared(home: Path) -> Assets:
    """Return what the cells share, from the cache of ``home``."""
    wanted = Preparation(
        model=EMBEDDED,
        tasks=resolve_tasks(None),
        splits=(("search", SEARCH_IMAGES), ("report", REPORT_IMAGES)),
        train_images=SAMPLES,
    )
    return prepare(wanted, home / "cache", Resources(1), print)


def open_bench(home: str) -> Bench:
    """Open a process's tools."""
    return Bench(prepared(Path(home)), Resources(1))


def candidate_of(spec: BackboneSpec, importance: Importance, cell: Cell) -> Candidate:
    """Return the plan of exactly the cell's size and its recipe."""
    params = round(spec.outside_params + (1 - cell.what["size"]) * spec.backbone_params)
    context = DecodeContext(
        spec=spec,
        importance=importance,
        min_params=params,
        max_params=params,
        train_samples=SAMPLES,
        max_recovery_samples=SAMPLES,
        seed=cell.what["seed"],
    )
    return decode(load_space("paper").complete(knobs_of(cell.what)), context)


def work(bench: Bench, cell: Cell) -> Row:
    """Recover a cell and score it on its split; each split is read once, at the end."""
    candidate = candidate_of(bench.assets.spec, bench.assets.importance, cell)
    spec, plan, split = bench.assets.spec, candidate.plan, cell.what["split"]
    whole = [
        shape == spec.layers[at.index] for at, shape in zip(plan.layers, plan.shapes, strict=True)
    ]
    found: Row = {
        "params": spec.params_of(plan.shapes),
        "layers": len(plan.layers),
        "whole_layers": sum(whole),
        "unique": candidate.recipe.data_fraction if cell.what["passes"] else 0.0,
        "rate": candidate.recipe.learning_rate,
        "flops": _flops(bench, candidate),
    }
    run = bench.start(candidate)
    try:
        run.recovery.run()
    except RecoveryDiverged as error:
        return {**found, "diverged": str(error)}
    scores = run.score(split)
    kept = retention(scores, bench.assets.exams[split].dense)
    return {
        **found,
        "retention": round(kept.value, 6),
        "retention_raw": round(kept.raw, 6),
        "answers": pack_scores(scores) if split == "report" else "",
    }


def _flops(bench: Bench, candidate: Candidate) -> float:
    """Return the floating-point operations of the recovery."""
    train, recipe = bench.assets.train, candidate.recipe
    step = bench.flops.step(
        candidate.plan.shapes,
        scope=recipe.scope,
        tokens=round(len(train.input_ids) / len(train)),
        predicted=round(train.num_answer_tokens / len(train)),
        images=int(train.has_images),
    )
    return recipe.sample_passes * step if recipe.steps else 0.0


def best_scales(rows: Sequence[Row]) -> dict[Where, float]:
    """Return the rate with the highest retention on ``search``, by axis, size and scope."""
    best: dict[Where, tuple[float, float]] = {}
    scopes = {recovery: scope for scope, recovery in TUNED_ON.items()}
    for row in rows:
        if row["split"] != "search" or "diverged" in row:
            continue
        where = (row["axis"], row["size"], scopes[row["recovery"]])
        best[where] = max(best.get(where, (-1.0, 0.0)), (row["retention"], row["scale"]))
    return {where: scale for where, (_, scale) in best.items()}


def tuned(axes: Sequence[str], given: str, workers: int) -> dict[Where, float]:
    """Tune; where the best rate is the lowest or the highest tried, the next one is tried too."""
    places = [(axis, size, scope) for axis in axes for size in sizes_of(axis) for scope in TUNED_ON]
    scales: dict[Where, tuple[float, ...]] = dict.fromkeys(places, SCALES)
    while True:
        cells = tuning_cells(axes, scales)
        rows = run_cells(ROWS, cells, open_bench, given, work, workers)
        best = best_scales(list(rows.values()))
        wider = {where: _wider(scales[where], best[where]) for where in places}
        if wider == scales:
            return best
        scales = wider


def _wider(tried: tuple[float, ...], best: float) -> tuple[float, ...]:
    if best == min(tried):
        return (best / 2, *tried)
    return (*tried, best * 2) if best == max(tried) else tried


def keep_dense(assets: Assets, path: Path = DENSE) -> None:
    """Write the dense model's answers, without which packed ones cannot be read."""
    path.write_text(json.dumps(assets.exams["report"].dense.to_dict()) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("mlruns"), help="holds the cache")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    given = parser.parse_args()
    home = str(given.home.absolute())
    keep_dense(prepared(given.home))
    # What the findings rest on comes first; see ``rank``.
    for last in (1, 3):
        for axes in (STUDY_AXES, ("uniform",)):
            rates = tuned(axes, home, given.workers)
            cells = report_cells(axes, rates, last)
            run_cells(ROWS, cells, open_bench, home, work, given.workers)


if __name__ == "__main__":
    main()
