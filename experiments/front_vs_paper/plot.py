"""Draw results.csv: the front against the study's recommendations at the same sizes."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
LOOKS = {
    "front": ("#0072b2", "o", "front (AutoPrune)"),
    "paper-depth": ("#e69f00", "s", "study: layers, trimmed to size"),
    "paper-width": ("#009e73", "D", "study: widths in its window"),
}


def main() -> None:
    with (HERE / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for shift, (name, (colour, mark, label)) in enumerate(LOOKS.items()):
        own = [r for r in rows if r["configuration"].startswith(name)]
        sizes = [100 * float(r["size"]) + 0.15 * (shift - 1) for r in own]
        means = [float(r["retention"]) for r in own]
        below = [float(r["retention"]) - float(r["low"]) for r in own]
        above = [float(r["high"]) - float(r["retention"]) for r in own]
        axes.errorbar(sizes, means, (below, above), fmt=mark, color=colour, capsize=3, label=label)
    axes.set_xlabel("share of the whole model kept (%)")
    axes.set_ylabel("retention on the report split")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(HERE / "front_vs_paper.png", dpi=110)


if __name__ == "__main__":
    main()
