"""Tables and plots of the searches: ``python -m experiments.search_quality.analyse``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments.cells import Row, by, read_rows
from experiments.claims import adjusted_text, claim_text, of_seeds
from experiments.pages import into
from experiments.pages import table as pages_table
from experiments.search_quality.arms import ARMS
from experiments.search_quality.loop import TARGETS
from experiments.search_quality.measures import at, curve
from experiments.search_quality.targets import Seeds, difference, final, ideal, targets, text

matplotlib.use("Agg")
HERE = Path(__file__).parent
CONTROLS = ("random", "grid", "rule")


def by_arm(rows: dict[str, Row]) -> dict[str, dict[int, Row]]:
    """Return searches by arm and seed, arms in the order of the table."""
    found: dict[str, dict[int, Row]] = {}
    for name in ARMS:
        seeds = {row["seed"]: row for row in rows.values() if row["arm"] == name}
        if seeds:
            found[name] = dict(sorted(seeds.items()))
    return found


def table(arms: dict[str, Seeds]) -> list[dict[str, Any]]:
    """Return one row an arm."""
    full, random = arms["full"], arms.get("random", {})
    behind = {name: difference(full, seeds) for name, seeds in arms.items() if name != "full"}
    claims = {name: claim for name, claim in behind.items() if claim is not None}
    adjusted = adjusted_text(claims)
    rows = []
    for name, seeds in arms.items():
        searches = list(seeds.values())
        row: dict[str, Any] = {"arm": ARMS[name].text, "seeds": len(seeds)}
        row["trials"] = round(np.mean([len(s["trials"]) for s in searches]), 1)
        row["hypervolume"] = text([final(s) for s in searches], 4)
        for target in TARGETS:
            kept = [v for s in searches if (v := at(s["trials"], target)) is not None]
            row[f"R at {target:.0%}"] = text(kept)
        ahead = difference(seeds, random) if name != "random" else None
        row["minus random"] = "" if ahead is None else claim_text(ahead, 4)
        row["full minus it"] = claim_text(claims[name], 4) if name in claims else ""
        row["p, Holm"] = adjusted.get(name, "")
        rows.append(row)
    return rows


def again(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return retention of what was found, trained again with fresh seeds, by target and arm.

    A search is the unit: its value is the mean over fresh seeds, intervals are over searches.
    """
    found: dict[tuple[float, str], dict[int, float]] = {}
    for (target, arm, seed), group in by(rows.values(), "target", "arm", "search_seed").items():
        value = float(np.mean([row["report"] for row in group]))
        found.setdefault((target, arm), {})[seed] = value
    claims = {}
    for (target, arm), values in found.items():
        full = found.get((target, "full"), {})
        gaps = [full[seed] - value for seed, value in values.items() if seed in full]
        if arm != "full" and gaps:
            claims[f"{target:g} {arm}"] = of_seeds(gaps)
    adjusted = adjusted_text(claims)
    out = []
    for (target, arm), values in sorted(found.items()):
        row: dict[str, Any] = {
            "backbone removed": f"{target:.0%}",
            "arm": ARMS[arm].text,
            "searches": len(values),
            "R": text(list(values.values())),
        }
        if (name := f"{target:g} {arm}") in claims:
            row["full minus it"] = claim_text(claims[name], 3)
            row["p, Holm"] = adjusted[name]
        out.append(row)
    return out


def plot(arms: dict[str, dict[int, Row]], path: Path, best: float) -> None:
    """Draw hypervolume over cost, means over seeds with their intervals."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    groups = (("full", *CONTROLS), ("full", *(n for n in arms if n not in (*CONTROLS, "full"))))
    colours = dict(zip(ARMS, plt.get_cmap("tab10").colors, strict=False))
    for axis, names in zip(axes, groups, strict=True):
        for name in names:
            if name not in arms:
                continue
            curves = [curve(s["trials"], s["budget"]) for s in arms[name].values()]
            x = np.array([cost for cost, _ in curves[0]])
            y = np.array([[v for _, v in c] for c in curves])
            wide = 2.5 if name == "full" else 1.4
            axis.plot(x, y.mean(0), label=ARMS[name].text, color=colours[name], lw=wide)
            if len(y) > 1:
                half = y.std(0, ddof=1) / len(y) ** 0.5
                axis.fill_between(
                    x, y.mean(0) - half, y.mean(0) + half, color=colours[name], alpha=0.15, lw=0
                )
        axis.axhline(best, color="0.6", lw=0.8, ls=":")
        axis.set_xlabel("FLOPs of trials")
        axis.legend(frameon=False, fontsize=8, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
    low = min(final(s) for seeds in arms.values() for s in seeds.values())
    axes[0].set_ylim(max(0.0, low - 0.06), best + 0.01)
    axes[0].set_ylabel("hypervolume on report")
    figure.suptitle("Front over cost (means, bands are one standard error; dotted: the ideal)")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table as CSV."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    pages = []
    for path in sorted(HERE.glob("searches-*.jsonl")):
        dense = path.stem.removeprefix("searches-")
        arms = by_arm(read_rows(path))
        if "full" not in arms:
            continue
        rows = table(arms)
        write(HERE / f"table-{dense}.csv", rows)
        asked = [
            dict(zip(("target", "measured", "verdict"), t, strict=True)) for t in targets(arms)
        ]
        page = [f"### Dense model {dense} (ideal {ideal():.4f})", pages_table(rows)]
        page.append(pages_table(asked))
        if found := again(read_rows(HERE / f"fronts-{dense}.jsonl")):
            write(HERE / f"again-{dense}.csv", found)
            page += ["Trained again with three fresh seeds:", pages_table(found)]
        plot(arms, HERE / f"cost-{dense}.png", ideal())
        pages.append("\n\n".join(page))
    text = "\n\n".join(pages)
    print(text)
    into(HERE / "README.md", text)


if __name__ == "__main__":
    main()
