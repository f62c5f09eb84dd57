"""Turn rows.jsonl into tables, verdicts on the study's findings, and plots.

python -m experiments.paper_study.analyse
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.evaluation.retention import bootstrap
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior
from experiments.cells import Row
from experiments.claims import Claim, difference, holm
from experiments.pages import into
from experiments.paper_study.findings import Finding, findings
from experiments.paper_study.grid import (
    DENSE,
    EQUAL_PASSES,
    HERE,
    RECOVERIES,
    ROWS,
    SIZES,
    VARIANTS,
    knobs_of,
)
from experiments.paper_study.page import page
from experiments.paper_study.plot import draw
from experiments.paper_study.scores import (
    Config,
    Scores,
    by_seed,
    complete,
    mixed,
    read,
    scatter,
)

SURE = 0.05
"""Holm-adjusted p below which a verdict is given."""

Table = list[dict[str, Any]]


def configurations(scores: Scores, dense: TaskScores, rows: Mapping[str, Row]) -> Table:
    """Return retention with its interval for every configuration that has its seeds."""
    priors = priors_by_size(scores, dense)
    by_config = {tuple(row[name] for name in Config._fields): row for row in rows.values()}
    table = []
    for config, runs in scores.items():
        if not complete(scores, config):
            continue
        found = bootstrap(list(runs.values()), dense, prior=priors.get(config.size))
        row = by_config[config]
        table.append(
            {
                **config._asdict(),
                "unique": row["unique"],
                "passes": row["passes"],
                "scale": row["scale"],
                "params": row["params"],
                "flops": row["flops"],
                "seeds": len(runs),
                "retention": round(found.mean, 4),
                "low": round(found.low, 4),
                "high": round(found.high, 4),
            }
        )
    places = {name: place for place, name in enumerate(RECOVERIES)}
    table.sort(key=lambda r: (r["size"], r["axis"], r["variant"] != VARIANTS[0], r["data"]))
    table.sort(key=lambda r: (r["size"], r["axis"], places[r["recovery"]]))
    return table


def priors_by_size(scores: Scores, dense: TaskScores) -> dict[float, SeedPrior | None]:
    """Return how far seeds scatter, learnt from all configurations of a size."""
    groups: dict[float, list[Sequence[TaskScores]]] = {}
    for config, runs in scores.items():
        if len(runs) > 1:
            groups.setdefault(config.size, []).append(list(runs.values()))
    return {size: scatter(found, dense) for size, found in groups.items()}


def claims_of(scores: Scores, dense: TaskScores, tested: Sequence[Finding]) -> dict[str, Claim]:
    """Return each finding's difference; seeds' scatter is learnt within a finding's number."""
    sides: dict[str, tuple[list[TaskScores], list[TaskScores]]] = {}
    for finding in tested:
        left = by_seed(scores, finding.left)
        right = by_seed(scores, finding.right) if finding.right else [mixed([(0.0, dense)])]
        if finding.dense:
            right = [mixed([(1.0, side), (finding.dense, dense)]) for side in right]
        sides[finding.name] = (left, right)
    found = {}
    for finding in tested:
        alike = [f for f in tested if f.group == finding.group]
        prior = scatter((side for f in alike for side in sides[f.name]), dense)
        left, right = sides[finding.name]
        found[finding.name] = difference(left, right, dense, prior=prior, margin=finding.margin)
    return found


def verdict(claim: Claim, adjusted: float) -> str:
    """Say whether a finding holds: only what survives Holm's correction is called."""
    if adjusted >= SURE:
        return "undecided"
    return "holds" if claim.mean > -claim.margin else "does not hold"


def judged(scores: Scores, dense: TaskScores) -> tuple[Table, list[str]]:
    """Return the findings with verdict, estimate, interval and p; and those without their rows."""
    tested, missing = findings(scores)
    claims = claims_of(scores, dense, tested)
    adjusted = holm({name: claim.p for name, claim in claims.items()})
    table = []
    for finding in tested:
        claim = claims[finding.name]
        configs = [c for _, c in (*finding.left, *finding.right)]
        table.append(
            {
                "finding": finding.name,
                "text": finding.text,
                "verdict": verdict(claim, adjusted[finding.name]),
                "difference": round(claim.mean, 4),
                "low": round(claim.low, 4),
                "high": round(claim.high, 4),
                "margin": claim.margin,
                "p": round(claim.p, 5),
                "p_holm": round(adjusted[finding.name], 5),
                "configurations": len(set(configs)),
                "seeds": len(by_seed(scores, finding.left)),
            }
        )
    return table, missing


def best_of_grid(table: Table, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return the best configuration of each large size, with what it takes to rebuild it.

    It is chosen on the report split, which favours the grid over what it is compared with.
    """
    found: dict[str, Any] = {}
    for size in SIZES[1:]:
        of_size = [r for r in table if r["size"] == size]
        few = [r for r in of_size if r["passes"] <= EQUAL_PASSES]
        for label, pool in (("any", of_size), (f"at most {EQUAL_PASSES} passes", few)):
            best = max(pool, key=lambda r: r["retention"])
            runs = [
                row
                for row in rows.values()
                if all(row[name] == best[name] for name in Config._fields)
            ]
            found[f"{size:g} {label}"] = {
                **best,
                "knobs": knobs_of(runs[0]),
                "learning_rate": runs[0]["rate"],
                "answers": {str(row["seed"]): row["answers"] for row in runs},
            }
    return found


def write_csv(path: Path, table: Table) -> None:
    """Write a table."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def main() -> None:
    rows, scores, dense = read(ROWS, DENSE)
    table = configurations(scores, dense, rows)
    write_csv(HERE / "results.csv", table)
    verdicts, missing = judged(scores, dense)
    write_csv(HERE / "findings.csv", verdicts)
    best = best_of_grid(table, rows)
    (HERE / "best_of_grid.json").write_text(json.dumps(best, indent=1) + "\n")
    into(HERE / "README.md", page(table, verdicts, best))
    print("not tested, rows are missing:", ", ".join(missing) or "none")
    draw(table, verdicts, HERE)


if __name__ == "__main__":
    main()
