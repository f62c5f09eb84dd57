"""Turn rows.jsonl into tables, verdicts on the study's findings, and plots.

python -m experiments.paper_study.analyse
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.evaluation.retention import bootstrap
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior
from experiments.cells import Row
from experiments.claims import Claim, difference, holm
from experiments.paper_study.findings import Finding, findings, percent
from experiments.paper_study.grid import (
    CUTS,
    DATA,
    DENSE,
    EQUAL_PASSES,
    HERE,
    NONE,
    RECOVERIES,
    ROWS,
    SEEDS,
    SIZES,
    STUDY_AXES,
    VARIANTS,
    knobs_of,
)
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


def size_table(table: Table, variant: str, data: float) -> str:
    """Return retention by recovery, axis and size as Markdown, in percent; "" without rows."""
    rows = [r for r in table if r["variant"] == variant and r["data"] in (0.0, data)]
    cells = {(r["recovery"], r["axis"], r["size"]): _interval(r) for r in rows}
    places = [(axis, size) for axis in CUTS for size in SIZES]
    there = {r["recovery"] for r in rows if r["data"] == data}
    if not there:
        return ""
    places = [p for p in places if any((recovery, *p) in cells for recovery in RECOVERIES)]
    head = " | ".join(f"{axis} {percent(size)}" for axis, size in places)
    lines = [
        f"{variant}, {percent(data)} of the data",
        "",
        f"| recovery | {head} |",
        "|---" * (len(places) + 1) + "|",
    ]
    for recovery in RECOVERIES:
        if recovery in there or (recovery == NONE and variant == VARIANTS[0]):
            shown = " | ".join(cells.get((recovery, *place), "–") for place in places)
            lines.append(f"| {recovery} | {shown} |")
    return "\n".join(lines)


def recommended_table(table: Table) -> str:
    """Return retention of the recommended recovery by data and variant as Markdown, in percent."""
    lines = [
        f"| SFT + L2 | {' | '.join(f'{percent(size)} removed' for size in SIZES)} |",
        "|---" * (len(SIZES) + 1) + "|",
    ]
    for axis, variant, data in itertools.product(STUDY_AXES, VARIANTS, DATA):
        found = {
            r["size"]: r
            for r in table
            if (r["axis"], r["variant"], r["data"]) == (axis, variant, data)
            and r["recovery"] == "SFT + L2"
        }
        if found:
            first = next(iter(found.values()))
            name = f"{axis}, {variant}: {percent(first['unique'])}, {first['passes']:,} passes"
            shown = [_interval(found[size]) if size in found else "–" for size in SIZES]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    """Return retention with half its interval, in percent, and the seeds where some are missing."""
    half = (row["high"] - row["low"]) / 2
    whole = row["recovery"] == NONE or row["seeds"] == len(SEEDS)
    seeds = "" if whole else f" ({row['seeds']})"
    return f"{100 * row['retention']:.1f} ± {100 * half:.1f}{seeds}"


def findings_table(table: Table) -> str:
    """Return the findings as Markdown, in points."""
    lines = ["| finding | verdict | difference, points (95 %) | p, Holm |", "|---|---|---|---|"]
    for row in table:
        margin = f" [margin {100 * row['margin']:.0f}]" if row["margin"] else ""
        lines.append(
            f"| {row['finding']} | {row['verdict']} | "
            f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} … {100 * row['high']:+.1f})"
            f"{margin} | {row['p_holm']:.2g} |"
        )
    return "\n".join(lines)


def main() -> None:
    rows, scores, dense = read(ROWS, DENSE)
    table = configurations(scores, dense, rows)
    write_csv(HERE / "results.csv", table)
    verdicts, missing = judged(scores, dense)
    write_csv(HERE / "findings.csv", verdicts)
    best = best_of_grid(table, rows)
    (HERE / "best_of_grid.json").write_text(json.dumps(best, indent=1) + "\n")
    for variant, data in itertools.product(VARIANTS, DATA):
        print(size_table(table, variant, data), end="\n\n")
    print(recommended_table(table), end="\n\n")
    print(findings_table(verdicts), end="\n\n")
    print("not tested, rows are missing:", ", ".join(missing) or "none")
    draw(table, verdicts, HERE)


if __name__ == "__main__":
    main()
