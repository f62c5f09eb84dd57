"""Tables and plots of the searches: ``python -m experiments.search_quality.analyse``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments.cells import Row, by, read_rows
from experiments.claims import mean_interval
from experiments.pages import into
from experiments.pages import table as pages_table
from experiments.search_quality.arms import ARMS
from experiments.search_quality.loop import TARGETS
from experiments.search_quality.measures import at, cost_of, curve, enqueued, started, volume

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


def paired(
    a: dict[int, Row], b: dict[int, Row], value: Callable[[Row], float | None]
) -> tuple[float, float, float, int]:
    """Return the mean difference over the seeds that both have, its interval, and their number."""
    gaps = []
    for seed in sorted(set(a) & set(b)):
        one, other = value(a[seed]), value(b[seed])
        if one is not None and other is not None:
            gaps.append(one - other)
    return (*mean_interval(gaps), len(gaps)) if gaps else (np.nan, np.nan, np.nan, 0)


def final(row: Row) -> float:
    """Return the hypervolume at the end of the budget."""
    return volume(row["trials"], float("inf"))


def text(values: Sequence[float], digits: int = 3) -> str:
    """Return ``mean (low … high)``."""
    mean, low, high = mean_interval(list(values))
    if len(values) < 2:
        return f"{mean:.{digits}f} (one search)"
    return f"{mean:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def ideal() -> float:
    """Return the hypervolume of all ability at the smallest size that is searched.

    All dense models here have the embedded one's shape.
    """
    from autoprune.pipeline.prepare import inspect
    from experiments.search_quality.loop import SMALLEST

    spec = inspect("embedded").spec
    kept = spec.outside_params + (1 - SMALLEST) * spec.backbone_params
    return 1 - kept / spec.total_params


def table(arms: dict[str, dict[int, Row]]) -> list[dict[str, Any]]:
    """Return one row an arm."""
    rows = []
    for name, seeds in arms.items():
        searches = list(seeds.values())
        row: dict[str, Any] = {"arm": ARMS[name].text, "seeds": len(seeds)}
        row["trials"] = round(np.mean([len(s["trials"]) for s in searches]), 1)
        row["hypervolume"] = text([final(s) for s in searches], 4)
        for target in TARGETS:
            kept = [v for s in searches if (v := at(s["trials"], target)) is not None]
            row[f"R at {target:.0%}"] = text(kept)
        if name != "full":
            mean, low, high, pairs = paired(arms["full"], seeds, final)
            row["full minus it"] = f"{mean:+.4f}"
            if pairs > 1:
                row["full minus it"] += f" ({low:+.4f} … {high:+.4f})"
        rows.append(row)
    return rows


def targets(arms: dict[str, dict[int, Row]]) -> list[tuple[str, str, str]]:
    """Return the issue's targets: what was asked, what was measured, whether it is met."""
    out = []
    best, full = ideal(), arms["full"]
    if "random" in arms:
        gaps = [best - final(arms["random"][s]) for s in full if s in arms["random"]]
        gains = [final(full[s]) - final(arms["random"][s]) for s in full if s in arms["random"]]
        closed = [gain / np.mean(gaps) for gain in gains]
        mean, low, _ = mean_interval(closed)
        out.append(
            ("gap to the ideal closed, at least 0.30", text(closed, 2), verdict(mean, low, 0.3))
        )
        shares = []
        for seed in sorted(set(full) & set(arms["random"])):
            goal = final(arms["random"][seed])
            cost = cost_of(full[seed]["trials"], lambda v, goal=goal: v >= goal)
            ready = full[seed]["prepared"]
            shares.append(((cost or np.inf) + ready) / (full[seed]["budget"] + ready))
        mean, low, high = mean_interval([min(s, 1.0) for s in shares])
        out.append(
            (
                "cost at which random's last hypervolume is reached, at most 0.50 of all of it",
                text([min(s, 1.0) for s in shares], 2),
                verdict(-mean, -high, -0.5),
            )
        )
    if "no-fidelity" in arms:
        other, ratios, behind = arms["no-fidelity"], [], []
        for seed in sorted(set(full) & set(other)):
            start = started(other[seed]["trials"])
            goal = start + 0.95 * (final(other[seed]) - start)
            cost = cost_of(full[seed]["trials"], lambda v, goal=goal: v >= goal)
            theirs = cost_of(other[seed]["trials"], lambda v, goal=goal: v >= goal)
            if theirs is not None:
                ready = full[seed]["prepared"]
                ratios.append(min(((cost or np.inf) + ready) / (theirs + ready), 2.0))
                first = enqueued(other[seed]["trials"])
                if theirs > first:
                    mine = (cost or np.inf) - enqueued(full[seed]["trials"])
                    behind.append(min(mine / (theirs - first), 2.0))
        mean, low, high = mean_interval(ratios)
        out.append(
            (
                "cost of 95 % of the gain, of what it costs at full fidelity, at most 0.50",
                text(ratios, 2),
                verdict(-mean, -high, -0.5),
            )
        )
        if behind:
            mean, low, high = mean_interval(behind)
            asked = "the same, counted from the end of the enqueued trials, which both run in full"
            out.append((asked, text(behind, 2), verdict(-mean, -high, -0.5)))
    return out


def verdict(mean: float, low: float, wanted: float) -> str:
    """Say whether a target is met, with what certainty."""
    if low >= wanted:
        return "met"
    return "met in the mean, not shown" if mean >= wanted else "missed"


def again(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return retention of what was found, trained again with fresh seeds, by target and arm.

    A search is the unit: its value is the mean over fresh seeds, intervals are over searches.
    """
    found: dict[tuple[float, str], dict[int, float]] = {}
    for (target, arm, seed), group in by(rows.values(), "target", "arm", "search_seed").items():
        value = float(np.mean([row["report"] for row in group]))
        found.setdefault((target, arm), {})[seed] = value
    out = []
    for (target, arm), values in sorted(found.items()):
        row: dict[str, Any] = {
            "backbone removed": f"{target:.0%}",
            "arm": ARMS[arm].text,
            "searches": len(values),
            "R": text(list(values.values())),
        }
        full = found.get((target, "full"), {})
        gaps = [full[seed] - value for seed, value in values.items() if seed in full]
        if arm != "full" and gaps:
            mean, low, high = mean_interval(gaps)
            row["full minus it"] = f"{mean:+.3f} ({low:+.3f} … {high:+.3f})"
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
