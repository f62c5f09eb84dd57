"""Do the points of a search's front beat the study's recommendations at the same size and cost?

    autoprune search --budget 60% --trials 24 --name demo
    python experiments/front_vs_paper/run.py demo

For each point of the confirmed front the study's two recommended configurations are built at
exactly its size: layers by block influence (trimmed to the size), and widths in the study's
window; each with its recommended recovery (SFT + hidden, LoRA + projector, 5 % of the data up
to half of the backbone removed, all beyond) and once more with the point's own data fraction.
All see the same number of samples, and are scored on the ``report`` split, which no search
reads, with fresh seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

from autoprune.evaluation.retention import bootstrap, paired_difference, retention
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import seed_prior
from autoprune.pipeline.prepare import prepare
from autoprune.pipeline.run import Bench
from autoprune.resources import Resources
from autoprune.search.candidates.decode import DecodeContext, decode
from autoprune.search.problem import PipelineProblem, preparation
from autoprune.search.records.store import find_search
from autoprune.search.starts.baselines import baselines

HERE = Path(__file__).parent
RECOMMENDED = ("paper-depth", "paper-width")
FIRST_SEED = 1000
FIELDS = (
    "trial",
    "size",
    "backbone_removed",
    "configuration",
    "data_fraction",
    "retention",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "verdict",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("search", help="name of a finished search")
    parser.add_argument("--home", type=Path, default=Path("mlruns"))
    parser.add_argument("--points", type=int, default=6, help="largest front points to compare")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512, help="of the report split")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    store = find_search(given.home, given.search)
    summary, records = store.summary(), store.records()
    if summary is None:
        raise SystemExit(f"search {given.search} has not finished")
    settings, space = store.settings(), store.space()
    context = PipelineProblem().prepare(settings, space, print).context
    wanted = replace(preparation(settings), splits=(("report", given.images),))
    assets = prepare(wanted, Path(settings.home) / "cache", Resources(given.threads), print)
    bench = Bench(assets, Resources(given.threads))
    dense = assets.exams["report"].dense
    folder = store.directory / "front_vs_paper"
    folder.mkdir(exist_ok=True)

    def scored(label: str, knobs: dict, at: DecodeContext) -> list[TaskScores]:
        """Recover and score once a seed; what is on disk is not run again."""
        runs = []
        for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
            path = folder / f"{label}-{seed}.json"
            if not path.is_file():
                run = bench.start(decode(space.complete(knobs), replace(at, seed=seed)))
                result = run.rung(1.0, split="report")
                path.write_text(json.dumps(result.scores.to_dict()))
                print(f"{label} seed {seed}: {result.retention:.3f}", flush=True)
            runs.append(TaskScores.from_dict(json.loads(path.read_text())))
        return runs

    own = [p for p in summary.front if p.baseline is None]
    covered = context.max_recovery_samples / context.train_samples
    table: list[tuple[dict, list[TaskScores], list[TaskScores] | None]] = []
    for point in own[-given.points :]:
        knobs = {k: v for k, v in records[point.trial].knobs.items() if v is not None}
        mine = scored(f"{point.trial}-own", knobs, context)
        row = {
            "trial": point.trial,
            "size": point.fraction,
            "backbone_removed": point.backbone_removed,
            "configuration": f"front: {point.axis}, {point.recovery}",
            "data_fraction": point.data_fraction,
        }
        table.append((row, mine, None))
        at = replace(context, max_params=point.params, min_params=point.params)
        for base in baselines(space, lambda size, p=point: p.backbone_removed, 10):
            if base.name not in RECOMMENDED:
                continue
            recommended = min(float(base.knobs["data_fraction"]), covered)
            for data in sorted({recommended, point.data_fraction}):
                theirs = scored(
                    f"{point.trial}-{base.name}-{data:g}", {**base.knobs, "data_fraction": data}, at
                )
                other = {**row, "configuration": base.name, "data_fraction": data}
                table.append((other, theirs, mine))

    prior = seed_prior([[retention(s, dense).value for s in runs] for _, runs, _ in table])
    with (HERE / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        for row, runs, mine in table:
            interval = bootstrap(runs, dense, prior=prior)
            row |= {"retention": interval.mean, "low": interval.low, "high": interval.high}
            if mine is not None:
                gap = paired_difference(mine, runs, dense, prior=prior)
                verdict = "tied" if gap.tied else "front better" if gap.mean > 0 else "front worse"
                row |= {
                    "difference": gap.mean,
                    "difference_low": gap.low,
                    "difference_high": gap.high,
                    "verdict": verdict,
                }
            shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(shown)
            print(shown)


if __name__ == "__main__":
    main()
