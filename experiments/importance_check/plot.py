"""Draw results.csv:  python experiments/importance_check/plot.py"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
FILLS = {
    "random": "0.6",
    "taylor": "C0",
    "weight_taylor": "C1",
    "activation": "C2",
    "magnitude": "C3",
}


def main() -> None:
    with (HERE / "results.csv").open() as stream:
        rows = [
            {**row, **{k: float(row[k]) for k in ("R", "low", "high", "backbone_removed")}}
            for row in csv.DictReader(stream)
        ]
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(12, 8), sharey=True)

    of = [r for r in rows if r["part"] == "criterion"]
    names = list(
        dict.fromkeys((r["case"].split(": ")[0], round(r["backbone_removed"], 1)) for r in of)
    )
    for place, (cut, removed) in enumerate(names):
        for shift, (criterion, fill) in enumerate(FILLS.items()):
            (row,) = [
                r
                for r in rows
                if r["case"] == f"{cut}: {criterion}" and round(r["backbone_removed"], 1) == removed
            ]
            a.bar(
                place + 0.16 * (shift - 2),
                row["R"],
                0.15,
                color=fill,
                yerr=error(row),
                label=criterion if not place else None,
            )
    a.set_xticks(range(len(names)), [f"{cut}\n{removed:.0%} removed" for cut, removed in names])
    a.set_title("Criteria, cut alike")
    a.legend(fontsize=7, ncol=5, loc="upper center")

    curves(b, [r for r in rows if r["part"] == "layers"], lambda r: r["case"])
    b.set_title("Whole layers")
    curves(c, [r for r in rows if r["part"] == "kind"], lambda r: r["case"].split()[-1])
    c.set_title("One kind of unit only (12.5 to 50 % of it)")

    last = sorted((r for r in rows if r["part"] == "allocation"), key=lambda r: r["R"])
    for place, row in enumerate(last):
        drawn = row["case"].startswith("drawn")
        d.bar(place, row["R"], color="0.7" if drawn else "C4", yerr=error(row))
        if not drawn:
            d.text(place, 0.03, row["case"], rotation=90, ha="center", fontsize=8)
    d.set_title("Allocations at half of the backbone: baselines and 12 blind draws")
    d.set_xticks([])
    for axis in (b, c):
        axis.set_xlabel("share of the backbone removed")
    for axis in (a, c):
        axis.set_ylabel("R, no recovery")
    a.set_ylim(-0.25, 1.12)
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=80)


def error(row: dict) -> list[list[float]]:
    return [[max(0, row["R"] - row["low"])], [max(0, row["high"] - row["R"])]]


def curves(axis, rows: list[dict], name) -> None:
    for case in dict.fromkeys(map(name, rows)):
        own = [r for r in rows if name(r) == case]
        x = [r["backbone_removed"] for r in own]
        axis.plot(x, [r["R"] for r in own], marker="o", label=case)
        axis.fill_between(x, [r["low"] for r in own], [r["high"] for r in own], alpha=0.12)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    main()
