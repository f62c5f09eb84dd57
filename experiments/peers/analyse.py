"""Turn the rows of this experiment into tables, claims with Holm's correction, and a plot.

    python -m experiments.peers.analyse --autoprune experiments/search_quality/fronts-seed0.jsonl \\
        --grid experiments/paper_study/best_of_grid.json

Without ``--autoprune`` peers that were tuned are held against AutoPrune's default plan, tuned as
they were; with it, against what its searches found (see ``others``). ``--grid`` adds the best
points of the study's grid.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.evaluation.retention import bootstrap, retention
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.seeds import SeedPrior, seed_prior
from autoprune.pipeline.prepare import prepare
from autoprune.resources import Resources
from experiments.cells import Row, by, read_rows, unpack_scores
from experiments.claims import Claim, difference, holm
from experiments.pages import into
from experiments.peers.bench import preparation
from experiments.peers.catalogue import METHODS
from experiments.peers.others import (
    OTHERS,
    SEARCHED,
    Key,
    Runs,
    grid_runs,
    searched_runs,
    spread,
)
from experiments.peers.plot import draw
from experiments.peers.run import HERE, label

SURE = 0.05
"""Holm-adjusted p below which a verdict is given."""

MARGIN = 0.01
"""One point of retention: what "no worse" allows."""

TITLES = {
    "common": "### (a) One common recipe",
    "tuned": "### (b) Each recipe tuned at the cost of a search",
}


def common_runs(
    rows: Iterable[Row], plans: Mapping[str, Row], dense: TaskScores
) -> dict[Key, Runs]:
    """Return the runs with the common recipe; over several plans where a method's were built."""
    found = {}
    told = [row for row in rows if row["removed"] in METHODS[row["method"]].sizes]
    for key, group in by(told, "method", "removed").items():
        chosen = spread(group, "plan", "seed")
        built = [plans[_plan(row)] for row in chosen]
        bare = [row for row in chosen if row["bare"]]
        found[key] = Runs(
            max(row["params"] for row in built),
            tuple(unpack_scores(row["after"], dense) for row in chosen),
            tuple(unpack_scores(row["before"], dense) for row in bare),
            sum(row["bare_kl"] for row in bare) / max(1, len(bare)),
            sum(row["flops"] for row in built) / len(built),
        )
    return found


def tuned_runs(
    rows: Iterable[Row], tunings: Mapping[str, Row], plans: Mapping[str, Row], dense: TaskScores
) -> dict[Key, Runs]:
    """Return the runs with tuned recipes: one of each of three tunings, or three of one."""
    found = {}
    for key, group in by(rows, "method", "removed").items():
        chosen = spread(group, "tuning", "seed")
        costs = [tunings[row["key"].rsplit("/", 1)[0]]["flops"] for row in chosen]
        found[key] = Runs(
            max(plans[_plan(row)]["params"] for row in chosen),
            tuple(unpack_scores(row["after"], dense) for row in chosen),
            flops=sum(costs) / len(costs),
        )
    return found


def _plan(row: Row) -> str:
    return f"{row['model']}/{row['method']}/{row['removed']:g}/{row['plan']}"


def priors(found: Mapping[Key, Runs], dense: TaskScores) -> dict[float, SeedPrior | None]:
    """Return how far seeds scatter at each size, over methods."""
    values: dict[float, list[list[float]]] = {}
    for (_, removed), runs in found.items():
        values.setdefault(removed, []).append([retention(s, dense).value for s in runs.scores])
    return {removed: seed_prior(groups) for removed, groups in values.items()}


def table(
    found: Mapping[Key, Runs], own: str, dense: TaskScores, unit: int = 1
) -> list[dict[str, Any]]:
    """Return a row a method and size, and AutoPrune's difference from each, with verdicts.

    Args:
        found: runs by method and size.
        own: the method that is AutoPrune's.
        dense: the dense model's scores.
        unit: parameters of the smallest unit, within which sizes are equal.
    """
    prior = priors(found, dense)
    rows, differs, allows = [], {}, {}
    claims: dict[str, Claim] = {}
    for (method, removed), runs in sorted(found.items(), key=_order):
        after = bootstrap(runs.scores, dense, prior=prior[removed])
        row = {
            "method": method,
            "removed": removed,
            "params": runs.params,
            "seeds": len(runs.scores),
            "retention": after.mean,
            "low": after.low,
            "high": after.high,
            "flops": runs.flops,
        }
        if runs.before:
            bare = bootstrap(runs.before, dense)
            row |= {"bare": bare.mean, "bare_low": bare.low, "bare_high": bare.high}
            row["kl"] = runs.kl
        mine = found.get((own, removed))
        if mine is not None and method != own:
            name, pair = f"{method}/{removed:g}", (mine.scores, runs.scores, dense)
            claims[name] = difference(*pair, prior=prior[removed])
            differs[name] = claims[name].p
            margin = difference(*pair, prior=prior[removed], margin=MARGIN)
            allows[name] = margin.p if margin.mean > -MARGIN else 1.0
            row["smaller"] = mine.params - runs.params < unit
        rows.append(row)
    differs, allows = holm(differs), holm(allows)
    for row in rows:
        name = f"{row['method']}/{row['removed']:g}"
        if (claim := claims.get(name)) is not None:
            row |= {"difference": claim.mean, "difference_low": claim.low}
            row |= {"difference_high": claim.high, "p": differs[name], "p_margin": allows[name]}
            row["verdict"] = verdict(claim, differs[name], allows[name])
    return rows


def verdict(claim: Claim, differs: float, allows: float) -> str:
    """Return what the adjusted p-values allow to say of AutoPrune against a peer."""
    if differs < SURE:
        return "better" if claim.mean > 0 else "worse"
    return "no worse" if allows < SURE else "undecided"


def _order(item: tuple[Key, Runs]) -> tuple[float, int]:
    (method, removed), _ = item
    return removed, [*OTHERS, *METHODS].index(method)


def text_of(method: str) -> str:
    """Return what a method is called in tables."""
    return OTHERS[method] if method in OTHERS else METHODS[method].text


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables of a comparison: a row a method, a column a size."""
    parts = [("R", lambda row: _interval(row, "retention", "low", "high"))]
    if any("bare" in row for row in rows):
        bare = ("R without recovery", lambda row: _interval(row, "bare", "bare_low", "bare_high"))
        parts.insert(0, bare)
    parts.append(("AutoPrune − it", _difference))
    return "\n\n".join(_wide(rows, name, cell) for name, cell in parts)


def _wide(
    rows: Sequence[Mapping[str, Any]], name: str, cell: Callable[[Mapping[str, Any]], str]
) -> str:
    sizes = sorted({row["removed"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    at = {(row["method"], row["removed"]): cell(row) for row in rows}
    lines = [f"| {name} | " + " | ".join(f"{size:.0%} removed" for size in sizes) + " |"]
    lines.append("|" + "---|" * (len(sizes) + 1))
    for method in methods:
        cells = [at.get((method, size), "") for size in sizes]
        if any(cells):
            lines.append(f"| {text_of(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(row: Mapping[str, Any], mean: str, low: str, high: str, sign: str = "") -> str:
    if mean not in row:
        return ""
    return f"{100 * row[mean]:{sign}.1f} ({100 * row[low]:.1f} … {100 * row[high]:.1f})"


def _difference(row: Mapping[str, Any]) -> str:
    if "difference" not in row:
        return ""
    p = row["p_margin"] if row["verdict"] == "no worse" else row["p"]
    found = _interval(row, "difference", "difference_low", "difference_high", "+")
    larger = "" if row["smaller"] else ", larger"
    return f"{found} {row['verdict']}{larger}, p {p:.3f}"


def recipes(tunings: Iterable[Row]) -> str:
    """Return the table of recipes that tuning chose."""
    head = ["removed", "method", "trials", "losses", "scope", "rate ×", "data"]
    head.append("R on search: common → best")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    order = list(METHODS)
    for row in sorted(tunings, key=lambda r: (r["removed"], order.index(r["method"]), r["seed"])):
        knobs, first = row["knobs"], row["trials"][0]["search"]
        losses = str(knobs["recovery"])
        if "+" in losses and losses.startswith("sft"):
            losses += f" ({knobs['distill_weight']:.2f})"
        lines.append(
            f"| {row['removed']:.0%} | {text_of(row['method'])} | {len(row['trials'])} | {losses} "
            f"| {knobs['scope']} | {knobs['learning_rate_scale']:.2f} | {knobs['data_fraction']:g} "
            f"| {100 * first:.1f} → {100 * row['search']:.1f} |"
        )
    return "\n".join(lines)


def save(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a table as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="embedded", help="dense model, by name or path")
    parser.add_argument("--home", type=Path, default=Path("mlruns"), help="whose cache is used")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the rows")
    parser.add_argument("--autoprune", type=Path, help="rows of what searches found")
    parser.add_argument("--arm", default="full", help="of these rows")
    parser.add_argument("--grid", type=Path, help="best points of the study's grid")
    given = parser.parse_args()
    model = label(given.model)
    assets = prepare(preparation(given.model), given.home / "cache", Resources(1))
    dense, unit = assets.exams["report"].dense, assets.spec.channel_params

    def rows(stage: str) -> dict[str, Row]:
        read = read_rows(given.out / f"{stage}.jsonl")
        return {key: row for key, row in read.items() if row["model"] == model}

    plans, tunings = rows("plans"), rows("tune")
    tables = {}
    if common := common_runs(rows("common").values(), plans, dense):
        tables["common"] = table(common, "autoprune", dense, unit)
    if tuned := tuned_runs(rows("tuned").values(), tunings, plans, dense):
        own = "autoprune"
        if given.autoprune is not None:
            tuned |= searched_runs(given.autoprune, given.arm, dense)
            own = SEARCHED
        if given.grid is not None:
            tuned |= grid_runs(given.grid, dense)
        tables["tuned"] = table(tuned, own, dense, unit)
    pages = []
    for name, found in tables.items():
        save(found, given.out / f"{name}-{model}.csv")
        pages.append(f"{TITLES[name]}\n\n{markdown(found)}")
    if tunings:
        pages.append(f"Recipes that tuning chose:\n\n{recipes(tunings.values())}")
    print("\n\n".join(pages))
    readme = given.out / "README.md"
    if readme.is_file() and model == "embedded":
        into(readme, "\n\n".join(pages))
    draw(tables, given.out / f"peers-{model}.png", text_of)


if __name__ == "__main__":
    main()
